"""Who is meant: values that belong to the context that set them.

A web server answers many people at once over shared objects. A value that is set here is seen by the context that set it
(a task, a thread, what inherits from them) whatever the others set. A context without one sees what was set elsewhere as long as that
has only ever been about one; once it was about two, nobody can know whom such a context means, and no memory is better than
somebody else's. Notebooks alone, whose cells are contexts of their own, go by the latest.
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

_bound: ContextVar[Mapping[weakref.ref[Any], Callable[[], Any]]] = ContextVar("memori_bound", default=_NOTHING)


class Attribution(NamedTuple):
    """Whose memory a call is about."""

    entity_id: str | None = None
    process_id: str | None = None
    session_id: str | None = None

    def named(self) -> tuple[str, str | None, str | None]:
        """For a call that has somebody to be about."""
        return self.entity_id or "", self.process_id, self.session_id


class _Lineage:
    """One context: what its task or thread sets time and again is one voice."""

    __slots__ = ("__weakref__", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner = weakref.ref(owner)


_lineage: ContextVar[_Lineage | None] = ContextVar("memori_lineage", default=None)


def _own_lineage() -> _Lineage:
    """This context's; a copy of the context that another task or thread runs has one of its own."""
    owner: Any = threading.current_thread()
    asyncio = sys.modules.get("asyncio")
    in_a_callback = False
    if asyncio is not None and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        in_a_callback = task is None
        owner = owner if task is None else task
    held = _lineage.get()
    if held is not None and held.owner() is owner and not in_a_callback:
        return held
    fresh = _Lineage(owner)
    _lineage.set(fresh)
    return fresh


def _in_a_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    try:
        return ipython is not None and ipython.get_ipython() is not None
    except Exception:
        return False


def _is_over(lineage: weakref.ref[_Lineage]) -> bool:
    """Whether whoever set something has ended, or is this thread itself."""
    held = lineage()
    owner = None if held is None else held.owner()
    if owner is None or owner is threading.current_thread():
        return True
    return not owner.is_alive() if isinstance(owner, threading.Thread) else bool(owner.done())


class _Claim(Generic[T]):
    """What contexts without a value of their own may take."""

    __slots__ = ("held", "lineage", "shared")

    def __init__(self, held: Callable[[], T | None], lineage: _Lineage) -> None:
        self.held = held
        self.lineage = weakref.ref(lineage)
        self.shared = False
        """Several contexts have set it."""


class ByContext(Generic[T]):
    """A value of each context, with what the contexts without one may take."""

    __slots__ = ("__weakref__", "_claim", "_disputed", "_hold", "_replaces", "_self")

    def __init__(
        self,
        replaces: Callable[[T, T], bool] = lambda before, value: before == value,
        hold: Callable[[T], Callable[[], T | None]] = lambda value: lambda: value,
    ) -> None:
        """`replaces(before, value)`: whether a context that sets `value` after `before` still means the same one. `hold` gives
        the way to a value: a weak reference, where it is not to live on for having been set."""
        self._replaces = replaces
        self._hold = hold
        self._claim: _Claim[T] | None = None
        self._disputed = False
        self._self = weakref.ref(self)

    def set(self, value: T) -> None:
        held = self._hold(value)
        bound = _bound.get()
        _bound.set({**{key: other for key, other in bound.items() if key() is not None}, self._self: held})
        lineage = _own_lineage()
        notebook = _in_a_notebook()
        with _lock:
            before = self._claim
            if before is None or (notebook and (before.lineage() is lineage or _is_over(before.lineage))):
                self._claim, self._disputed = _Claim(held, lineage), False
            elif not self._disputed:
                self._put_beside(before, value, held, lineage)

    def _put_beside(self, claim: _Claim[T], value: T, held: Callable[[], T | None], lineage: _Lineage) -> None:
        before = claim.held()
        if before is not None and before == value:
            claim.shared = claim.shared or claim.lineage() is not lineage
        elif before is not None and not claim.shared and claim.lineage() is lineage and self._replaces(before, value):
            claim.held = held
        else:
            self._disputed = True

    def here(self) -> T | None:
        """What this context, or one that it inherits from, has set."""
        held = _bound.get().get(self._self)
        return None if held is None else held()

    def get(self) -> tuple[T | None, bool]:
        """The value that holds here, and whether it is certain. (None, True): nobody has set one, or it is gone."""
        value = self.here()
        if value is not None:
            return value, True
        with _lock:
            if self._disputed:
                return None, False
            return (None if self._claim is None else self._claim.held()), True

    def discard(self, value: T) -> None:
        """Forgets a value that is no longer to be used. That it was set counts on."""
        with _lock:
            if self._claim is not None and self._claim.held() is value:
                self._claim.held = lambda: None


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
