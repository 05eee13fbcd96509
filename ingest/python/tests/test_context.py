"""Values that belong to the context which set them: nobody gets somebody else's."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

from memori._context import Attribution, ByContext, Scope, scope_of, scoped_holders


def box() -> ByContext[str]:
    return ByContext(same=lambda value: value)


def elsewhere(held: ByContext[str]) -> tuple[str | None, bool]:
    """What a context that has set nothing gets."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(held.get).result()


def test_nobody_has_set_one() -> None:
    assert box().get() == (None, True)


def test_another_context_sees_the_latest() -> None:
    held = box()
    held.set("a")
    held.set("b")
    assert held.get() == ("b", True)
    assert elsewhere(held) == ("b", True)


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


def test_a_context_without_one_gets_none_while_two_at_work_disagree() -> None:
    held = box()

    async def user(value: str, go: asyncio.Event, ready: asyncio.Event) -> object:
        held.set(value)
        ready.set()
        await go.wait()
        # An executor does not take the context along.
        return await asyncio.get_running_loop().run_in_executor(None, held.get)

    async def two() -> tuple[object, object, object]:
        go, ready_a, ready_b = asyncio.Event(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(user("a", go, ready_a))
        second = asyncio.create_task(user("b", go, ready_b))
        await ready_a.wait()
        await ready_b.wait()
        go.set()
        uncertain = await asyncio.get_running_loop().run_in_executor(None, held.get)
        await asyncio.gather(first, second)
        certain = await asyncio.get_running_loop().run_in_executor(None, held.get)
        return uncertain, certain, first.result()

    uncertain, certain, _ = asyncio.run(two())
    assert uncertain == (None, False)
    assert certain == ("b", True), "those who disagreed are done: the latest holds"


def test_two_that_agree_are_no_contradiction() -> None:
    held = box()
    done = threading.Event()
    set_there = threading.Event()

    def other() -> None:
        held.set("a")
        set_there.set()
        done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    set_there.wait(10)
    held.set("a")
    assert elsewhere(held) == ("a", True)
    held.set("b")
    assert elsewhere(held) == (None, False)
    done.set()
    thread.join()
    assert elsewhere(held) == ("b", True)


def test_a_thread_that_runs_a_loop_has_one_voice() -> None:
    held = box()
    held.set("module")

    async def main() -> object:
        held.set("task")
        return await asyncio.get_running_loop().run_in_executor(None, held.get)

    assert asyncio.run(main()) == ("task", True)


def test_cells_of_a_notebook_are_tasks_one_after_the_other() -> None:
    held = box()

    async def cells() -> list[tuple[str | None, bool]]:
        seen = []
        for value in ("alice", "bob"):

            async def cell(value: str = value) -> None:
                held.set(value)

            async def next_cell() -> None:
                seen.append(held.get())

            await asyncio.create_task(cell())
            await asyncio.create_task(next_cell())
        return seen

    assert asyncio.run(cells()) == [("alice", True), ("bob", True)]


def test_what_is_discarded_is_gone() -> None:
    held = box()
    first, second = "x1", "x2"
    held.set(first)
    context = contextvars.copy_context()
    held.set(second)
    held.discard(second)
    assert elsewhere(held) == (None, True)
    assert context.run(held.here) == first


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
