"""Values that belong to the context which set them: nobody gets somebody else's."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from memori._context import Attribution, ByContext, Scope, scope_of, scoped_holders


def box() -> ByContext[str]:
    """Of texts that mean the same one where they begin with the same letter."""
    return ByContext(replaces=lambda before, value: before[0] == value[0])


def elsewhere(held: ByContext[str]) -> tuple[str | None, bool]:
    """What a context that has set nothing gets."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(held.get).result()


def test_nobody_has_set_one() -> None:
    assert box().get() == (None, True)


def test_another_context_sees_the_latest_of_the_only_one() -> None:
    held = box()
    held.set("a")
    assert elsewhere(held) == ("a", True)
    held.set("a, on Monday")
    assert held.get() == ("a, on Monday", True)
    assert elsewhere(held) == ("a, on Monday", True)


def test_another_context_sees_nobody_once_there_were_two() -> None:
    """Work that the first one left with a thread must not become the second one's."""
    held = box()
    held.set("a")
    held.set("b")
    assert held.get() == ("b", True)
    assert elsewhere(held) == (None, False)


def test_every_task_keeps_its_own() -> None:
    held = box()

    async def one(value: str) -> bool:
        held.set(value)
        await asyncio.sleep(0.001)
        inner = await asyncio.to_thread(held.get)
        child = await asyncio.create_task(asyncio.sleep(0, held.get()))
        return held.get() == inner == child == (value, True)

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*[one(str(number)) for number in range(1000)])

    assert all(asyncio.run(all_of_them()))


def test_every_thread_keeps_its_own() -> None:
    held = box()
    barrier = threading.Barrier(50)

    def one(value: str) -> bool:
        held.set(value)
        barrier.wait()
        return held.get() == (value, True)

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(one, map(str, range(50))))


def in_an_executor(held: ByContext[str]) -> asyncio.Future[tuple[str | None, bool]]:
    """From a task: an executor does not take the context along."""
    return asyncio.get_running_loop().run_in_executor(None, held.get)


def test_a_context_without_one_gets_none_for_good_once_two_disagreed() -> None:
    held = box()

    async def user(value: str) -> None:
        held.set(value)

    async def main() -> list[object]:
        await asyncio.create_task(user("a"))
        alone = await in_an_executor(held)
        await asyncio.create_task(user("b"))
        gc.collect()
        return [alone, await in_an_executor(held), held.get()]

    assert asyncio.run(main()) == [("a", True), (None, False), (None, False)]
    held.set("a")
    assert held.get() == ("a", True)
    assert elsewhere(held) == (None, False), "those who disagreed are gone, and still nobody can know"


def test_threads_that_serve_one_after_the_other_do_not_replace_each_other() -> None:
    """A framework's pool runs a request's dependency in a copy of its context, on a thread that served another before."""
    held = box()

    async def main() -> list[object]:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            asked = asyncio.Event()

            async def request(user: str, go: asyncio.Event) -> object:
                await loop.run_in_executor(pool, contextvars.copy_context().run, held.set, user)
                asked.set()
                await go.wait()
                return held.get()

            go = asyncio.Event()
            requests = []
            for user in ("ann", "bob"):
                asked.clear()
                requests.append(asyncio.create_task(request(user, go)))
                await asked.wait()
            go.set()
            return await asyncio.gather(*requests)

    assert asyncio.run(main()) == [(None, False), (None, False)]


def test_what_a_child_sets_is_its_own() -> None:
    held = box()

    async def main() -> list[object]:
        held.set("a")
        await asyncio.gather(*[asyncio.create_task(asyncio.to_thread(held.set, value)) for value in ("b", "c")])
        return [held.get(), await in_an_executor(held)]

    assert asyncio.run(main()) == [("a", True), (None, False)]


def test_callbacks_of_a_loop_are_not_one_voice() -> None:
    """Each has a copy of the same context, in the same thread."""
    held: ByContext[str] = ByContext(replaces=lambda before, value: True)

    async def main() -> object:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.call_soon(held.set, "a")
        loop.call_soon(held.set, "b")
        loop.call_soon(done.set)
        await done.wait()
        return held.get()

    held.set("module")
    assert contextvars.Context().run(asyncio.run, main()) == (None, False)


def test_two_that_agree_are_no_contradiction() -> None:
    held = box()
    thread = threading.Thread(target=held.set, args=("a",))
    thread.start()
    thread.join()
    held.set("a")
    assert elsewhere(held) == ("a", True)
    held.set("a, on Monday")
    assert elsewhere(held) == (None, False), "the other has not said so"


def cells(held: ByContext[str], *values: str) -> list[tuple[str | None, bool]]:
    """What the next cell gets after a cell that has set a value, each a task."""

    async def cell(value: str) -> None:
        held.set(value)

    async def next_cell() -> tuple[str | None, bool]:
        return held.get()

    async def main() -> list[tuple[str | None, bool]]:
        seen = []
        for value in values:
            await asyncio.create_task(cell(value))
            seen.append(await asyncio.create_task(next_cell()))
        return seen

    return asyncio.run(main())


def test_cells_of_a_notebook_go_by_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cells(box(), "alice", "bob") == [("alice", True), (None, False)], "no notebook"
    shell: list[object] = []
    ipython = SimpleNamespace(get_ipython=lambda: shell[0] if shell else None)
    monkeypatch.setitem(sys.modules, "IPython", ipython)  # type: ignore[arg-type]
    assert cells(box(), "alice", "bob") == [("alice", True), (None, False)], "IPython is imported, and does not run"
    shell.append(object())
    held = box()
    assert cells(held, "alice", "bob") == [("alice", True), ("bob", True)]
    held.set("carl")
    held.set("dora")
    assert elsewhere(held) == ("dora", True)

    async def at_once() -> tuple[str | None, bool]:
        both = asyncio.Event()

        async def one(value: str) -> None:
            held.set(value)
            await both.wait()

        tasks = [asyncio.create_task(one(value)) for value in ("alice", "bob")]
        await asyncio.sleep(0)
        seen = await in_an_executor(held)
        both.set()
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(at_once()) == (None, False), "within a cell, two at work"


def test_what_is_discarded_is_gone() -> None:
    held = box()
    value = "x1"
    held.set(value)
    held.discard("y")
    assert elsewhere(held) == (value, True)
    held.discard(value)
    assert elsewhere(held) == (None, True)
    assert held.here() == value
    held.set("y")
    assert elsewhere(held) == (None, False), "there were two"


def test_what_is_held_weakly_does_not_live_on_for_having_been_set() -> None:
    held: ByContext[Holder] = ByContext(hold=weakref.ref)
    one = Holder()
    held.set(one)
    assert held.get() == (one, True)
    assert elsewhere(held) == (one, True)  # type: ignore[arg-type, comparison-overlap]
    del one
    assert held.here() is None
    assert held.get() == (None, True)
    held.set(Holder())
    assert held.get() == (None, False)


def test_contexts_do_not_grow_with_those_who_are_gone() -> None:
    def sizes() -> int:
        return max(len(value) for var, value in contextvars.copy_context().items() if var.name == "memori_bound")

    def many() -> int:
        for _ in range(1000):
            box().set("x")
        gc.collect()
        box().set("x")
        return sizes()

    assert contextvars.Context().run(many) <= 2


class Holder:
    """Something that scopes can be of."""


def test_scopes_nest_and_end() -> None:
    holder, other = Holder(), Holder()
    of, of_other = weakref.ref(holder), weakref.ref(other)
    outer, inner = Scope(of, Attribution("a")), Scope(of, Attribution("b"))
    with outer as entered:
        assert entered == Attribution("a")
        with Scope(of_other, Attribution("z")), inner, outer:
            assert scope_of(of) == Attribution("a")
            assert scope_of(of_other) == Attribution("z")
            assert scoped_holders() == [of, of_other]
        assert scope_of(of) == Attribution("a")
        assert scope_of(of_other) is None
    assert scope_of(of) is None


def test_a_generator_that_is_closed_elsewhere_ends_its_scope() -> None:
    holder = Holder()
    of = weakref.ref(holder)

    async def items() -> object:
        async with Scope(of, Attribution("a")):
            yield 1
            yield 2

    async def main() -> Attribution | None:
        stream = items()
        await asyncio.create_task(anext(stream))
        await stream.aclose()
        return scope_of(of)

    assert asyncio.run(main()) is None
