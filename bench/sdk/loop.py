"""How late an event loop comes back to what it has promised, while calls are made on it: with memory, and without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import openai
from memori import Memori

_BEAT_S = 0.001
_REST_S = 120.0


async def _late(work: Callable[[], Awaitable[None]]) -> list[float]:
    """How late a heartbeat is while some work is done, in milliseconds."""
    late: list[float] = []
    over = asyncio.Event()

    async def beat() -> None:
        while not over.is_set():
            began = time.perf_counter()
            await asyncio.sleep(_BEAT_S)
            late.append((time.perf_counter() - began - _BEAT_S) * 1e3)

    beating = asyncio.create_task(beat())
    await work()
    over.set()
    await beating
    return late


async def pair(mem: Memori, url: str, history_bytes: int, at_once: int, rounds: int) -> tuple[list[float], list[float]]:
    """Lateness with memory and without. So many calls at once, each of a user of their own, so often; each carries a history."""
    history = {"role": "assistant", "content": "I hear you. " * (history_bytes // 12)}
    options = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "timeout": 300.0}

    async def calls(client: openai.AsyncOpenAI) -> None:
        async def call(user: int, number: int) -> None:
            asked = {"role": "user", "content": f"I keep bees in hive {number}. What do I keep?"}
            with mem.scope(entity_id=f"loop-{user}"):
                await client.chat.completions.create(model="m", messages=[history, asked])  # type: ignore[list-item]

        for number in range(rounds):
            await asyncio.gather(*[call(user, number) for user in range(at_once)])

    async with openai.AsyncOpenAI(**options) as plain, openai.AsyncOpenAI(**options) as hooked:  # type: ignore[arg-type]
        mem.llm.register(hooked)
        # Connections and first looks are not what is measured.
        await calls(plain)
        await calls(hooked)
        floor = await _late(lambda: calls(plain))
        ours = await _late(lambda: calls(hooked))
        if not await mem.augmentation.wait_async(_REST_S):
            raise RuntimeError(f"what was captured is not applied: {mem.augmentation.failures()[:1]}")
    return ours, floor
