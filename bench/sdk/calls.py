"""One call at a time, with memory and without, in turns: each pair asks the same, and begins once the line behind it is at rest."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
from memori import Memori

_SYSTEM = "You are the assistant of a shop for bicycles. Be brief and kind, and say where what you know comes from."

# Calls before the first that counts.
_WARM = 10
# How long the line behind may take to come to rest.
_REST_S = 60.0


@dataclass
class Samples:
    """Milliseconds of calls: until the first piece of an answer, and until its end."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def _client(provider: str, url: str, asynchronous: bool) -> Any:
    options: dict[str, Any] = {"api_key": "none", "max_retries": 0}
    if provider == "openai":
        return (openai.AsyncOpenAI if asynchronous else openai.OpenAI)(base_url=f"{url}/v1", **options)
    return (anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic)(base_url=url, **options)


def _create(provider: str, client: Any, question: str, stream: bool) -> Any:
    user = {"role": "user", "content": question}
    if provider == "openai":
        system = {"role": "system", "content": _SYSTEM}
        return client.chat.completions.create(model="m", messages=[system, user], stream=stream)
    return client.messages.create(model="m", max_tokens=1024, system=_SYSTEM, messages=[user], stream=stream)


def _call(provider: str, client: Any, stream: bool) -> Callable[[str, Samples], None]:
    def call(question: str, samples: Samples) -> None:
        began = time.perf_counter()
        answer = _create(provider, client, question, stream)
        if stream:
            pieces = iter(answer)
            next(pieces)
            samples.first.append((time.perf_counter() - began) * 1e3)
            for _ in pieces:
                pass
        samples.whole.append((time.perf_counter() - began) * 1e3)

    return call


def _call_async(provider: str, client: Any, stream: bool) -> Callable[[str, Samples], Awaitable[None]]:
    async def call(question: str, samples: Samples) -> None:
        began = time.perf_counter()
        answer = await _create(provider, client, question, stream)
        if stream:
            pieces = aiter(answer)
            await anext(pieces)
            samples.first.append((time.perf_counter() - began) * 1e3)
            async for _ in pieces:
                pass
        samples.whole.append((time.perf_counter() - began) * 1e3)

    return call


def _rest(mem: Memori) -> None:
    """Waits for the line behind to come to rest, as it does while a person reads an answer and types."""
    if not mem.augmentation.wait(_REST_S):
        raise RuntimeError(f"what was captured is not applied: {mem.augmentation.failures()[:1]}")
    until = time.monotonic() + _REST_S
    while mem.stats()["reading_ahead"]:
        if time.monotonic() > until:
            raise RuntimeError("what was captured is read in without end")
        time.sleep(0.001)


def in_turns(
    mem: Memori, provider: str, url: str, stream: bool, questions: Iterator[str], count: int
) -> tuple[Samples, Samples]:
    """With memory and without, on threads that wait. The scope is the caller's."""
    plain, hooked = _client(provider, url, False), _client(provider, url, False)
    mem.llm.register(hooked)
    ours, floor = Samples(), Samples()
    with plain, hooked:
        sides = [(_call(provider, hooked, stream), ours), (_call(provider, plain, stream), floor)]
        for number in range(_WARM + count):
            question = next(questions)
            for call, samples in sides if number % 2 else reversed(sides):
                call(question, samples if number >= _WARM else Samples())
            _rest(mem)
    return ours, floor


async def in_turns_async(
    mem: Memori, provider: str, url: str, stream: bool, questions: Iterator[str], count: int
) -> tuple[Samples, Samples]:
    """As `in_turns`, on an event loop."""
    plain, hooked = _client(provider, url, True), _client(provider, url, True)
    mem.llm.register(hooked)
    ours, floor = Samples(), Samples()
    async with plain, hooked:
        sides = [(_call_async(provider, hooked, stream), ours), (_call_async(provider, plain, stream), floor)]
        for number in range(_WARM + count):
            question = next(questions)
            for call, samples in sides if number % 2 else reversed(sides):
                await call(question, samples if number >= _WARM else Samples())
            # Nothing else is on the loop.
            _rest(mem)
    return ours, floor
