"""Who is meant: values that belong to the context that set them.

A web server answers many people at once over shared objects. A value that is set here is seen by the context that set it
(a task, a thread, what inherits from them) whatever the others set. A context without one sees the latest, unless two of those
that set one are still at work and disagree: then nobody can know, and no memory is better than somebody else's.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_NOTHING: Mapping[Any, Any] = MappingProxyType({})

# One for all of them, so that a forked child can have a new one: it may inherit this while another thread holds it.
_lock = threading.Lock()


def _after_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)

_bound: ContextVar[Mapping[weakref.ref[Any], Any]] = ContextVar("memori_bound", default=_NOTHING)


class Attribution(NamedTuple):
    """Whose memory a call is about."""

    entity_id: str | None = None
    process_id: str | None = None
    session_id: str | None = None

    def named(self) -> tuple[str, str | None, str | None]:
        """For a call that has somebody to be about."""
        return self.entity_id or "", self.process_id, self.session_id


def _owner() -> Any:
    """The task that runs, else the thread."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is not None:
            return task
    return threading.current_thread()


def _at_work(owner: Any) -> bool:
    if isinstance(owner, threading.Thread):
        return owner.is_alive()
    return not owner.done()


class ByContext(Generic[T]):
    """A value of each context, with what the contexts without one may take."""

    __slots__ = ("__weakref__", "_claims", "_latest", "_prune_at", "_same", "_self")

    def __init__(self, same: Callable[[T], Any]) -> None:
        """`same` maps a value to what makes two of them agree."""
        self._same = same
        self._latest: T | None = None
        self._claims: dict[int, tuple[weakref.ref[Any], T]] = {}
        self._prune_at = 64
        self._self = weakref.ref(self)

    def set(self, value: T) -> None:
        bound = _bound.get()
        _bound.set({**{key: held for key, held in bound.items() if key() is not None}, self._self: value})
        owner = _owner()
        with _lock:
            self._latest = value
            if len(self._claims) >= self._prune_at:
                self._claims = {key: claim for key, claim in self._claims.items() if _alive(claim[0])}
                self._prune_at = max(64, 2 * len(self._claims))
            thread = threading.current_thread()
            if owner is not thread:
                # A thread that runs a loop does nothing else: what it set before is superseded.
                self._claims.pop(id(thread), None)
            self._claims[id(owner)] = (weakref.ref(owner), value)

    def here(self) -> T | None:
        """What this context, or one that it inherits from, has set."""
        return _bound.get().get(self._self)

    def get(self) -> tuple[T | None, bool]:
        """The value that holds here, and whether it is certain. (None, True): nobody has set one."""
        value = self.here()
        if value is not None:
            return value, True
        with _lock:
            latest = self._latest
            if latest is None or len(self._claims) == 1:
                return latest, True
            claims = list(self._claims.values())
        agreed = self._same(latest)
        certain = all(self._same(value) == agreed for owner, value in claims if _alive(owner))
        return (latest, True) if certain else (None, False)

    def discard(self, value: T) -> None:
        """Forgets a value that is no longer to be used."""
        with _lock:
            self._claims = {key: claim for key, claim in self._claims.items() if claim[1] is not value}
            if self._latest is value:
                self._latest = next((claim[1] for claim in reversed(self._claims.values())), None)


def _alive(reference: weakref.ref[Any]) -> bool:
    owner = reference()
    return owner is not None and _at_work(owner)


_scopes: ContextVar[Mapping[weakref.ref[Any], Attribution]] = ContextVar("memori_scopes", default=_NOTHING)


def scope_of(holder: weakref.ref[Any]) -> Attribution | None:
    """The scope that this context is in, of one `Memori`."""
    return _scopes.get().get(holder)


def scoped_holders() -> list[weakref.ref[Any]]:
    """Whose scopes this context is in, the innermost first."""
    return list(reversed(list(_scopes.get())))


class Scope:
    """A block of code that is about somebody; for `with` and `async with`, again and again and inside of itself."""

    __slots__ = ("_attribution", "_holder", "_tokens")

    def __init__(self, holder: weakref.ref[Any], attribution: Attribution) -> None:
        self._holder = holder
        self._attribution = attribution
        self._tokens: list[tuple[Token[Mapping[weakref.ref[Any], Attribution]], Attribution | None]] = []

    def __enter__(self) -> Attribution:
        outer = _scopes.get()
        token = _scopes.set(
            {**{key: held for key, held in outer.items() if key != self._holder}, self._holder: self._attribution}
        )
        self._tokens.append((token, outer.get(self._holder)))
        return self._attribution

    def __exit__(self, *_: object) -> None:
        token, before = self._tokens.pop()
        try:
            _scopes.reset(token)
        except ValueError:
            # An asynchronous generator may be closed in another context than the one that it began in.
            left = {key: held for key, held in _scopes.get().items() if key != self._holder}
            _scopes.set(left if before is None else {**left, self._holder: before})

    async def __aenter__(self) -> Attribution:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()
