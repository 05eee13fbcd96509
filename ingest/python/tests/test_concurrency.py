"""Many users at once: each gets their own memory, the event loop goes on, and nothing grows with the number of instances."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from memori import Memori

from double import Double
from support import exported


@pytest.fixture(scope="module")
def provider() -> Iterator[Double]:
    with Double() as double:
        yield double


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture
def new(data_dir: Path) -> Callable[[], Memori]:
    """A `Memori` as a request makes it: all share one engine, which runs."""

    def make() -> Memori:
        return Memori(data_dir=data_dir, embedding="none")

    make().config.storage.build()
    return make


def text_for(user: str) -> str:
    return f"My name is {user}."


def wrong(mem: Memori, users: list[str], provider: Double) -> list[str]:
    """Whose memory holds anything but what they said and were told, or whose prompt held somebody else's."""
    assert mem.augmentation.wait(60), mem.augmentation.failures()[:3]
    bad = []
    for user in users:
        held = sorted(json.dumps(message["content"]) for message in exported(mem, user))
        if held != sorted(json.dumps(text) for text in (text_for(user), f"You said: {text_for(user)}")):
            bad.append(user)
    for request in provider.requests:
        said = request.json()["messages"][-1]["content"]
        named = {user for user in users if f"{user}." in json.dumps(said) or f"{user} " in json.dumps(said)}
        if len(named) != 1:
            bad.append(str(said))
    return bad


async def ask(client: Any, user: str) -> None:
    answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text_for(user)}])
    assert answer.choices[0].message.content == f"You said: {text_for(user)}"


def everybody(calls: Callable[[Any, asyncio.Semaphore], list[Coroutine[Any, Any, None]]], provider: Double) -> None:
    """Runs calls at once over one client; so many connections as a provider allows."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k", timeout=60) as client:
            await asyncio.gather(*calls(client, asyncio.Semaphore(200)))

    provider.clear()
    asyncio.run(main())


@pytest.mark.parametrize("count", [100, 1000])
def test_a_memory_each_on_a_shared_client(count: int, new: Callable[[], Memori], provider: Double) -> None:
    users = [f"each-{count}-{number}" for number in range(count)]
    last: list[Memori] = []

    async def one(client: Any, user: str, slots: asyncio.Semaphore) -> None:
        mem = new().llm.register(client)
        mem.attribution(entity_id=user, process_id="bot")
        async with slots:
            await ask(client, user)
        last.append(mem)

    everybody(lambda client, slots: [one(client, user, slots) for user in users], provider)
    assert all(mem.augmentation.wait(60) for mem in last)
    assert wrong(new(), users, provider) == []


@pytest.mark.parametrize("count", [100, 1000])
def test_one_memory_with_a_scope_each_on_a_shared_client(count: int, new: Callable[[], Memori], provider: Double) -> None:
    users = [f"scope-{count}-{number}" for number in range(count)]
    mem = new()

    async def one(client: Any, user: str, slots: asyncio.Semaphore) -> None:
        mem.llm.register(client)
        with mem.scope(entity_id=user):
            async with slots:
                await ask(client, user)

    everybody(lambda client, slots: [one(client, user, slots) for user in users], provider)
    assert wrong(mem, users, provider) == []


def test_one_memory_with_an_attribution_each_on_a_shared_client(new: Callable[[], Memori], provider: Double) -> None:
    users = [f"attributed-{number}" for number in range(300)]
    mem = new()

    async def one(client: Any, user: str, slots: asyncio.Semaphore) -> None:
        mem.llm.register(client)
        mem.attribution(entity_id=user)
        async with slots:
            await ask(client, user)

    everybody(lambda client, slots: [one(client, user, slots) for user in users], provider)
    assert wrong(mem, users, provider) == []


def test_threads_on_a_shared_client(new: Callable[[], Memori], provider: Double) -> None:
    users = [f"thread-{number}" for number in range(200)]
    provider.clear()
    with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client, ThreadPoolExecutor(32) as pool:

        def one(user: str) -> Memori:
            mem = new().llm.register(client)
            mem.attribution(entity_id=user)
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text_for(user)}])
            return mem

        assert all(mem.augmentation.wait(60) for mem in pool.map(one, users))
    assert wrong(new(), users, provider) == []


def test_what_nobody_can_know_is_nobody_s(new: Callable[[], Memori], provider: Double) -> None:
    """An executor takes no context along: rather no memory than somebody else's."""
    users = [f"executor-{number}" for number in range(50)]
    provider.clear()
    before = new().stats()["python"].get("attribution_ambiguous", 0)
    with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client:

        async def one(user: str, all_here: asyncio.Barrier) -> None:
            new().llm.register(client).attribution(entity_id=user)
            await all_here.wait()
            call = lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": text_for(user)}])
            await asyncio.get_running_loop().run_in_executor(None, call)
            await all_here.wait()

        async def main() -> None:
            all_here = asyncio.Barrier(len(users)) if hasattr(asyncio, "Barrier") else pytest.skip("asyncio has no Barrier")
            await asyncio.gather(*[one(user, all_here) for user in users])

        asyncio.run(main())
    mem = new()
    assert not any(exported(mem, user) for user in users)
    assert mem.stats()["python"]["attribution_ambiguous"] == before + len(users)


def said_by(mem: Memori, user: str) -> list[str]:
    return [message["content"] for message in exported(mem, user) if message["role"] == "user"]


def test_a_dependency_on_a_thread_gives_nobody_somebody_else_s_memory(new: Callable[[], Memori], provider: Double) -> None:
    """FastAPI runs a `def` dependency in a copy of the request's context, on a thread that others' requests had before; what it sets
    cannot reach the endpoint."""
    users = ["dependency-ann", "dependency-bob", "dependency-carl"]
    mem = new()
    before = mem.stats()["python"].get("attribution_ambiguous", 0)

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k") as client:
            mem.llm.register(client)
            attributed = {user: asyncio.Event() for user in users}
            go = asyncio.Event()
            with ThreadPoolExecutor(1) as pool:

                async def endpoint(user: str) -> None:
                    context = contextvars.copy_context()
                    await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(mem.attribution, entity_id=user))
                    attributed[user].set()
                    await go.wait()
                    await ask(client, user)

                requests = []
                for user in users:
                    requests.append(asyncio.create_task(endpoint(user)))
                    await attributed[user].wait()
                go.set()
                await asyncio.gather(*requests)

    asyncio.run(main())
    assert mem.augmentation.wait(30)
    assert [said_by(mem, user) for user in users] == [[], [], []]
    assert mem.stats()["python"]["attribution_ambiguous"] == before + len(users)


def test_a_user_alone_is_known_from_a_thread(new: Callable[[], Memori], provider: Double) -> None:
    mem = new()
    with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client, ThreadPoolExecutor(1) as pool:
        mem.llm.register(client)
        mem.attribution(entity_id="alone")
        call = lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "I keep bees."}])
        pool.submit(call).result()
        mem.attribution(entity_id="not-alone")
        pool.submit(call).result()
    assert mem.augmentation.wait(30)
    assert (said_by(mem, "alone"), said_by(mem, "not-alone")) == (["I keep bees."], [])


@pytest.mark.parametrize("count", [1, 2])
def test_a_call_that_names_nobody_gets_nobody_s_memory(count: int, new: Callable[[], Memori], provider: Double) -> None:
    """A job between requests, each of which had a `Memori` of its own, on the client that they share."""
    users = [f"before-{count}-{number}" for number in range(count)]

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k") as client:

            async def request(user: str) -> None:
                mem = new().llm.register(client)
                mem.attribution(entity_id=user)
                await ask(client, user)
                assert await mem.augmentation.wait_async(30)

            for user in users:
                await asyncio.create_task(request(user))
            await asyncio.create_task(ask(client, "The job"))

    provider.clear()
    before = new().stats()["python"]
    asyncio.run(main())
    assert "memori_context" not in provider.requests[-1].body.decode()
    mem = new()
    reason = "memori_gone" if count == 1 else "attribution_ambiguous"
    assert mem.stats()["python"][reason] == before.get(reason, 0) + 1
    assert mem.augmentation.wait(30)
    assert [said_by(mem, user) for user in users] == [[text_for(user)] for user in users]


def test_a_thread_does_not_pass_a_request_s_memory_on_to_the_next(new: Callable[[], Memori], provider: Double) -> None:
    """A server's thread keeps its context from one request to the next."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client, ThreadPoolExecutor(1) as pool:

        def call(text: str) -> None:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

        def with_memory() -> None:
            mem = new().llm.register(client)
            mem.attribution(entity_id="first-of-the-thread")
            call("I keep bees.")
            assert mem.augmentation.wait(30)

        pool.submit(with_memory).result()
        captured = new().stats()["captured"]
        pool.submit(call, "Nothing of a user's.").result()
    assert new().stats()["captured"] == captured


def test_a_session_ends_with_the_entity_that_it_is_of(new: Callable[[], Memori]) -> None:
    mem = new().attribution(entity_id="ann", process_id="bot")
    mem.set_session("ann's")
    assert mem.attribution(process_id="other").session_id == "ann's"
    assert mem.attribution(entity_id="bob").current_attribution() == ("bob", "other", None)


async def _stalls(work: Coroutine[Any, Any, None]) -> list[float]:
    """How late the loop came back to a heartbeat while it did some work, in milliseconds."""
    late: list[float] = []
    over = asyncio.Event()

    async def heartbeat() -> None:
        while not over.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - began - 0.001) * 1000)

    beating = asyncio.create_task(heartbeat())
    await work
    over.set()
    await beating
    return late


def _turns_on_the_loop(mem: Memori, count: int, request_bytes: int = 850, answer_bytes: int = 550) -> list[float]:
    """How long each of our steps on the loop takes, without SDK and network between them: begin, injection, answer."""
    from memori import _bridge, _hook

    history = {"role": "assistant", "content": "In Lisbon. " * (request_bytes // 11)}
    messages = [{"role": "user", "content": "Hello."}, history, {"role": "user", "content": "Where do I live?"}]
    said = {"role": "assistant", "content": "In Lisbon. " * (answer_bytes // 11)}

    class Request:
        method = "POST"
        url = type("Url", (), {"path": "/v1/chat/completions"})()
        headers = {"content-type": "application/json"}
        extensions: dict[str, Any] = {}
        content = json.dumps({"model": "m", "messages": messages}).encode()

    class Response:
        status_code = 200
        headers = {"content-type": "application/json"}
        content = json.dumps({"choices": [{"message": said}]}).encode()
        _content = content

    hook = _hook.Hook()
    hook.register(mem)
    spans: list[float] = []

    async def one() -> None:
        began = time.perf_counter()
        call = _hook._begin(hook, Request())
        spans.append(time.perf_counter() - began)
        assert call is not None
        await _bridge.completed(call._turn.inject_async, call._turn.inject, 2.0, b"")
        began = time.perf_counter()
        call.began = began
        call.answered(Response(), False, object)
        spans.append(time.perf_counter() - began)

    async def main() -> None:
        for _ in range(count // 20):
            await asyncio.gather(*[one() for _ in range(20)])
        for _ in range(count % 20):
            await one()

    asyncio.run(main())
    return sorted(span * 1000 for span in spans)


def test_no_step_of_ours_holds_the_loop(new: Callable[[], Memori]) -> None:
    mem = new().attribution(entity_id="loop")
    mem.capture([{"role": "user", "content": "I live in Lisbon."}])
    assert mem.augmentation.wait(30)
    _turns_on_the_loop(mem, 100)
    spans = _turns_on_the_loop(mem, 1000)
    p99 = spans[int(len(spans) * 0.99)]
    assert p99 <= 5.0, f"99 of 100 of our steps on the loop take at most {p99:.2f} ms, the longest {spans[-1]:.2f} ms"


@pytest.mark.parametrize(("request_mb", "answer_mb"), [(4, 0), (16, 0), (0, 8)])
def test_a_large_body_does_not_hold_the_loop(new: Callable[[], Memori], request_mb: int, answer_mb: int) -> None:
    """It is read, written and captured beside the loop, and captured all the same."""
    mem = new().attribution(entity_id="large")
    mem.capture([{"role": "user", "content": "I live in Lisbon."}])
    assert mem.augmentation.wait(30)
    before = mem.stats()
    spans = _turns_on_the_loop(mem, 9, max(request_mb << 20, 850), max(answer_mb << 20, 550))
    assert spans[len(spans) // 2] <= 5.0, f"half of our steps take at most {spans[len(spans) // 2]:.2f} ms"
    assert mem.augmentation.wait(60)
    after = mem.stats()
    assert after["captured"] - before["captured"] == 9 and after["injected"] - before["injected"] == 9


def test_waiting_and_recalling_leave_the_loop_alone(new: Callable[[], Memori]) -> None:
    mem = new().attribution(entity_id="heartbeat")

    async def work() -> None:
        for number in range(20):
            mem.capture([{"role": "user", "content": f"I own book number {number}."}])
            await mem.arecall("which book?")
        assert await mem.augmentation.wait_async(30)

    async def nothing() -> None:
        await asyncio.sleep(0.5)

    idle = sorted(asyncio.run(_stalls(nothing())))
    late = sorted(asyncio.run(_stalls(work())))
    allowed = 5.0 + idle[-1]
    assert late[int(len(late) * 0.99)] <= allowed, f"the loop was {late[-1]:.1f} ms late, {idle[-1]:.1f} ms without us"


def _rss_kib() -> int:
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_instances_cost_no_thread_and_no_memory(new: Callable[[], Memori]) -> None:
    def make(count: int) -> None:
        for number in range(count):
            new().attribution(entity_id=f"instance-{number}")
        gc.collect()

    make(500)
    threads, rss = len(list(Path("/proc/self/task").iterdir())), _rss_kib()
    make(5000)
    # The runtime's own pool may grow under load, not with the number of instances.
    assert len(list(Path("/proc/self/task").iterdir())) <= threads + 8
    assert threading.active_count() < 10
    grown = _rss_kib() - rss
    assert grown < 8 * 1024, f"5,000 instances that are gone left {grown} KiB behind"


def test_an_instance_is_made_in_no_time(new: Callable[[], Memori]) -> None:
    new()
    began = time.perf_counter()
    for _ in range(1000):
        new()
    each_ms = time.perf_counter() - began  # a thousand of them, in seconds
    assert each_ms < 2.0, f"a Memori takes {each_ms:.3f} ms"
