"""The hook in the transport of an SDK's client.

An SDK keeps its HTTP client in an attribute. What is put there instead is a shallow copy: an object of a subclass that shares all
state with the original (so closing, cookies, event hooks and time limits are one and the same) and differs in `send`, which has the
core look at the request, and lets it see the answer. Whatever fails on our side, the call goes out as it was.
"""

from __future__ import annotations

import sys
import time
import types
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import _bridge, _runtime
from ._context import Attribution, ByContext, scope_of, scoped_holders
from ._stream import Watch, decoder_for, stream_classes

if TYPE_CHECKING:
    from ._core import Turn
    from ._memori import Memori

_MODULES = ("httpx", "httpx2")

# Somebody signed these bytes: other bytes would be refused.
_SIGNED = ("x-amz-content-sha256", "content-md5", "content-digest", "digest")

# How long the core may be late before it counts as gone.
_GUARD_S = 2.0


class Hook:
    """Which `Memori` looks at the calls of one client."""

    __slots__ = ("__weakref__", "_chosen", "_let_go", "_registered", "may_refuse")

    def __init__(self) -> None:
        # Weakly: a thread's context outlives the request that a `Memori` was made for.
        self._chosen: ByContext[Memori] = ByContext(hold=weakref.ref)
        self._registered: weakref.WeakSet[Memori] = weakref.WeakSet()
        self._let_go = False
        self.may_refuse = False
        """Somebody registered who wants to hear of a used-up quota."""

    def register(self, mem: Memori) -> None:
        self._registered.add(mem)
        self._let_go = False
        self._chosen.set(mem)
        self.may_refuse = self.may_refuse or mem.raises_on_quota

    def unregister(self, mem: Memori) -> None:
        self._registered.discard(mem)
        self._let_go = not self._registered
        self._chosen.discard(mem)

    def choose(self) -> tuple[Memori, Attribution] | None:
        """The `Memori` and the scope of a call from here; None where there is none, or none for certain."""
        for holder in scoped_holders():
            mem = holder()
            if mem is not None and mem in self._registered:
                attribution = scope_of(holder)
                return (mem, attribution) if attribution is not None and attribution.entity_id is not None else None
        chosen, certain = self._chosen.get()
        if not certain:
            _runtime.count(
                "attribution_ambiguous",
                "a call is left without memory: several Memori were registered with its client, none of them in the task or "
                "thread that makes the call, so nothing says whose call it is. Use `with mem.scope(entity_id=...)` around it",
            )
            return None
        if chosen is None:
            if not self._let_go:
                _runtime.count(
                    "memori_gone",
                    "a call is left without memory: the Memori that was registered with its client is gone. Keep it for as long "
                    "as the client is to remember",
                )
            return None
        if chosen.closed:
            return None
        attribution, certain = chosen.attribution_here()
        if not certain:
            _runtime.count(
                "attribution_ambiguous",
                "a call is left without memory: different attributions were set, none of them in the task or thread that makes "
                "the call, so nothing says whose call it is. Use `with mem.scope(entity_id=...)` around it",
            )
            return None
        if attribution is None or attribution.entity_id is None:
            _runtime.count(
                "attribution_missing",
                "a call is left without memory: no attribution. Call mem.attribution(entity_id=...) first",
            )
            return None
        return chosen, attribution


class _Call:
    """One request on its way."""

    __slots__ = ("_body", "_engine", "_request", "_sent", "_turn", "began", "may_change")

    def __init__(self, turn: Turn, engine: _runtime.Engine, request: Any, body: bytes, may_change: bool) -> None:
        self._turn = turn
        self._engine = engine
        self._request = request
        self._sent = request
        self._body = body
        self.may_change = may_change
        self.began = 0.0

    def inject(self) -> Any:
        try:
            self._put(self._turn.inject())
        except Exception as error:
            _runtime.failed("inject", error)
        return self._sent

    async def inject_async(self) -> Any:
        try:
            self._put(await _bridge.completed(self._turn.inject_async, self._turn.inject, _GUARD_S, self._body))
        except Exception as error:
            _runtime.failed("inject", error)
        return self._sent

    def _put(self, body: bytes) -> None:
        if body is not self._body and body != self._body:
            self._sent = _with_body(self._request, body)

    def hand_back(self, response: Any) -> None:
        """Has the answer, or what it was redirected from, show the caller's own request: what memory put in is none of theirs."""
        if self._sent is self._request:
            return
        try:
            for answer in (response, *response.history):
                shown = answer.request
                if shown is self._sent:
                    answer.request = self._request
                elif shown.content == self._sent.content:
                    answer.request = _with_body(shown, self._body)
        except Exception as error:
            _runtime.failed("hand_back", error)

    def failed(self, error: Exception) -> None:
        """Has the error show the caller's own request, too."""
        try:
            if self._sent is not self._request and getattr(error, "_request", None) is self._sent:
                error.request = self._request  # type: ignore[attr-defined]
        except Exception as failure:
            _runtime.failed("hand_back", failure)

    def answered(self, response: Any, streams: bool, watched: type) -> None:
        """Has the core see the answer, now or as it is read through a `watched` stream."""
        try:
            status = response.status_code
            if not 200 <= status < 300:
                return
            if hasattr(response, "_content"):
                latency_ms = (time.perf_counter() - self.began) * 1000
                self._turn.answer(status, response.headers.get("content-type"), response.content, latency_ms)
            elif streams:
                watch = Watch(self._turn, status, decoder_for(response), self.began)
                response.stream = watched(response.stream, watch)
        except Exception as error:
            _runtime.failed("answer", error)
        self._engine.log_notices()


def _with_body(request: Any, body: bytes) -> Any:
    length = str(len(body)).encode()
    headers = [(name, length if name.lower() == b"content-length" else value) for name, value in request.headers.raw]
    return type(request)(request.method, request.url, headers=headers, content=body, extensions=request.extensions)


def _begin(hook: Hook, request: Any) -> _Call | None:
    try:
        if request.method != "POST":
            return None
        headers = request.headers
        content_type = headers.get("content-type")
        if content_type is None or not content_type.startswith("application/json") or "content-encoding" in headers:
            return None
        chosen = hook.choose()
        if chosen is None:
            return None
        mem, attribution = chosen
        try:
            body = request.content
        except Exception:
            return None  # a body that is not in memory
        retry = headers.get("x-stainless-retry-count", "0")
        turn = mem.member().begin(
            attribution.named(), request.url.path, content_type, body, int(retry) if retry.isdigit() else 0
        )
        engine = mem.engine()
        engine.log_notices()
        if turn is None:
            return None
        signed = headers.get("authorization", "").startswith("AWS4-") or any(name in headers for name in _SIGNED)
        return _Call(turn, engine, request, body, may_change=not signed)
    except Exception as error:
        _runtime.failed("begin", error)
        return None


def _refused(hook: Hook) -> None:
    """Raises where the quota is used up and the user asked to hear of it.

    This happens while the request is built: what is raised while it is sent, SDKs take for a broken connection and try again.
    """
    if not hook.may_refuse:
        return
    try:
        chosen = hook.choose()
        error = None if chosen is None else chosen[0].quota_error()
    except Exception as failure:
        _runtime.failed("quota", failure)
        return
    if error is not None:
        raise error


def _send(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
    original = self._memori_original
    call = _begin(self._memori_hook, request)
    if call is None:
        return original.send(request, stream=stream, **options)
    if call.may_change:
        request = call.inject()
    call.began = time.perf_counter()
    try:
        response = original.send(request, stream=stream, **options)
    except Exception as error:
        call.failed(error)
        raise
    call.hand_back(response)
    call.answered(response, stream, self._memori_stream)
    return response


async def _send_async(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
    original = self._memori_original
    call = _begin(self._memori_hook, request)
    if call is None:
        return await original.send(request, stream=stream, **options)
    if call.may_change:
        request = await call.inject_async()
    call.began = time.perf_counter()
    try:
        response = await original.send(request, stream=stream, **options)
    except Exception as error:
        call.failed(error)
        raise
    call.hand_back(response)
    call.answered(response, stream, self._memori_stream)
    return response


def _build_request(self: Any, *args: Any, **options: Any) -> Any:
    _refused(self._memori_hook)
    return self._memori_original.build_request(*args, **options)


def _method(function: Any, name: str) -> property:
    """A method of the copy that an attribute in the shared state (a test's replacement for it) cannot hide: it is called
    within ours."""

    def get(self: Any) -> Any:
        return types.MethodType(function, self)

    def put(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    def delete(self: Any) -> None:
        del self.__dict__[name]

    return property(get, put, delete)


def http_module(client: Any) -> tuple[Any, bool] | None:
    """`httpx` or `httpx2` and whether the client is asynchronous; None for what is neither's client."""
    for name in _MODULES:
        module = sys.modules.get(name)
        if module is None:
            continue
        if isinstance(client, module.Client):
            return module, False
        if isinstance(client, module.AsyncClient):
            return module, True
    return None


@lru_cache(maxsize=64)
def _hooked_class(kind: type, module: Any, asynchronous: bool) -> type:
    body = {
        "__slots__": ("_memori_hook", "_memori_original"),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_memori_stream": stream_classes(module)[asynchronous],
        "send": _method(_send_async if asynchronous else _send, "send"),
        "build_request": _method(_build_request, "build_request"),
        # SDKs' clients close themselves when they are collected. The original is, once the copy lets go of it and nobody else
        # has it: frameworks share one among many SDK clients.
        "__del__": lambda self: None,
    }
    return type(kind.__name__, (kind,), body)


def hook_of(client: Any) -> Hook | None:
    """The hook that a client already has."""
    hook = getattr(client, "_memori_hook", None) if "_memori_stream" in vars(type(client)) else None
    return hook if isinstance(hook, Hook) else None


def hooked(client: Any) -> tuple[Any, Hook] | None:
    """The copy to put in the client's place, and its hook; None for what is no HTTP client that is known."""
    found = http_module(client)
    if found is None:
        return None
    held = hook_of(client)
    if held is not None:
        return client, held
    kind: Any = _hooked_class(type(client), *found)  # type: ignore[arg-type]
    copy: Any = object.__new__(kind)
    copy.__dict__ = client.__dict__
    copy._memori_original = client
    copy._memori_hook = Hook()
    return copy, copy._memori_hook
