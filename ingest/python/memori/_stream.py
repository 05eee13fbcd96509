"""Watching an answer go by. The bytes, their cuts and the errors are the provider's; a copy goes to the core."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._runtime import failed

if TYPE_CHECKING:
    from ._core import Turn


class Watch:
    """What one streamed answer tells the core: pieces, then once how it ended."""

    __slots__ = ("_began", "_decoder", "_over", "_status", "_turn")

    def __init__(self, turn: Turn, status: int, decoder: Any | None, began: float) -> None:
        self._turn = turn
        self._status = status
        self._decoder = decoder
        self._began = began
        self._over = False

    def feed(self, raw: bytes) -> None:
        if self._over:
            return
        try:
            if self._decoder is None:
                self._turn.feed(raw)
            else:
                self._pass_on(self._decoder.decode(raw))
        except Exception as error:
            failed("feed", error)
            self.end(complete=False)

    def _pass_on(self, decoded: bytes | Iterator[bytes]) -> None:
        # httpx decodes to bytes, httpx2 to pieces.
        for piece in (decoded,) if isinstance(decoded, bytes) else decoded:
            if piece:
                self._turn.feed(piece)

    def end(self, complete: bool) -> None:
        if self._over:
            return
        self._over = True
        try:
            if complete and self._decoder is not None:
                self._pass_on(self._decoder.flush())
        except Exception:
            complete = False
        try:
            self._turn.end(self._status, complete, (time.perf_counter() - self._began) * 1000)
        except Exception as error:
            failed("end", error)

    def __del__(self) -> None:
        self.end(complete=False)


def decoder_for(response: Any) -> Any | None:
    """A decoder of its own for the answer's content coding; None where there is none."""
    if not response.headers.get("content-encoding"):
        return None
    return type(response)(200, headers=response.headers)._get_content_decoder()


@lru_cache(maxsize=8)
def stream_classes(module: Any) -> tuple[type, type]:
    """The watched byte streams, synchronous and asynchronous, for `httpx` or `httpx2`."""

    class WatchedSyncStream(module.SyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, watch: Watch) -> None:
            self._inner = inner
            self._watch = watch

        def __iter__(self) -> Iterator[bytes]:
            watch = self._watch
            try:
                for piece in self._inner:
                    watch.feed(piece)
                    yield piece
            except BaseException:
                watch.end(complete=False)
                raise
            watch.end(complete=True)

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                self._watch.end(complete=False)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    class WatchedAsyncStream(module.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, watch: Watch) -> None:
            self._inner = inner
            self._watch = watch

        async def __aiter__(self) -> AsyncIterator[bytes]:
            watch = self._watch
            pieces = self._inner.__aiter__()
            try:
                async for piece in pieces:
                    watch.feed(piece)
                    yield piece
                watch.end(complete=True)
            finally:
                watch.end(complete=False)
                aclose = getattr(pieces, "aclose", None)
                if aclose is not None:
                    await aclose()

        async def aclose(self) -> None:
            try:
                await self._inner.aclose()
            finally:
                self._watch.end(complete=False)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    return WatchedSyncStream, WatchedAsyncStream
