"""Waiting for the core without blocking an event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

T = TypeVar("T")


class NoEventLoop(RuntimeError):
    """There is no way to wait here without blocking: no asyncio loop runs, and anyio is not installed."""


def running_loop() -> AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop: AbstractEventLoop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop


async def on_a_thread(blocking: Callable[[], T]) -> T:
    """What `blocking` gives, on a thread of asyncio's, or of anyio's under another loop."""
    if running_loop() is not None:
        import asyncio

        return await asyncio.to_thread(blocking)
    try:
        import anyio.to_thread
    except ImportError:
        raise NoEventLoop("install anyio, or use the blocking twin of this call") from None
    return await anyio.to_thread.run_sync(blocking)


async def completed(
    start: Callable[[Callable[[T], None]], Any],
    blocking: Callable[[], T],
    guard_s: float | None = None,
    default: T | None = None,
) -> T:
    """What `start` hands to its callback, from whichever thread.

    Under another loop than asyncio's, `blocking` runs on a thread of anyio's. After `guard_s` it is `default`: a core that never
    calls back must not hold a caller.
    """
    loop = running_loop()
    if loop is None:
        return await on_a_thread(blocking)

    future: Future[Any] = loop.create_future()

    def resolve(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    def done(value: T) -> None:
        try:
            loop.call_soon_threadsafe(resolve, value)
        except RuntimeError:
            pass  # the loop was closed while we worked: nobody waits any more

    guard = loop.call_later(guard_s, resolve, default) if guard_s is not None else None
    try:
        start(done)
        return await future  # type: ignore[no-any-return]
    finally:
        if guard is not None:
            guard.cancel()
