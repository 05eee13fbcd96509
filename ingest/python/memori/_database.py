"""From what SQLAlchemy users hold to where memory lives. SQLAlchemy itself is never imported: whoever passes an engine has it."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ._errors import UnsupportedDatabaseError

SUPPORTED = (
    "supported are SQLAlchemy engines, sessions and session factories, synchronous and asynchronous, on SQLite (a file or "
    ":memory:; pysqlite, aiosqlite) and on PostgreSQL (psycopg, psycopg2, asyncpg, pg8000)"
)

# What Postgres itself understands; drivers have more, which are theirs.
_POSTGRES_OPTIONS = frozenset(
    {"sslmode", "sslrootcert", "sslcert", "sslkey", "host", "hostaddr", "port", "application_name", "options"}
)


@dataclass(frozen=True)
class Target:
    """Where memory lives: one SQLite file, or one Postgres database."""

    mode: str
    path: str | None = None
    url: str | None = None

    @property
    def identity(self) -> str:
        """What names the target among others, without its password."""
        if self.url is None:
            return f"{self.mode}:{self.path}"
        parts = urlsplit(self.url)
        user = f"{parts.username}@" if parts.username else ""
        options = dict(parse_qsl(parts.query))
        host = options.get("host") or options.get("hostaddr") or parts.hostname or ""
        return f"{self.mode}:{user}{host}:{options.get('port') or parts.port or ''}{parts.path}"


def find(conn: Any) -> Target:
    """The target behind `conn`, or `UnsupportedDatabaseError`."""
    engine = _engine(conn)
    url = getattr(engine, "url", None)
    if url is None or not hasattr(url, "render_as_string"):
        raise UnsupportedDatabaseError(f"conn is {_named(conn)}, which holds no database; {SUPPORTED}")
    backend = url.get_backend_name()
    if backend == "sqlite":
        return Target("sqlite", path=_sqlite_path(engine, url))
    if backend in ("postgresql", "postgres"):
        return Target("postgres", url=_postgres_url(url.render_as_string(hide_password=False)))
    raise UnsupportedDatabaseError(f"{backend} holds no memory; {SUPPORTED}")


def _engine(conn: Any) -> Any:
    """The engine of a session factory, a session, a connection, or of itself; synchronous where there are two."""
    held = conn
    for _ in range(6):
        if isinstance(getattr(held, "kw", None), dict):  # sessionmaker, async_sessionmaker
            bind = held.kw.get("bind")
            if bind is None:
                raise UnsupportedDatabaseError(
                    "the session factory is bound to no engine: pass sessionmaker(bind=engine), or the engine; " + SUPPORTED
                )
            held = bind
        elif hasattr(held, "session_factory"):  # scoped_session, async_scoped_session
            held = held.session_factory
        elif hasattr(held, "sync_engine"):  # AsyncEngine
            held = held.sync_engine
        elif hasattr(held, "sync_session"):  # AsyncSession
            held = held.sync_session
        elif hasattr(held, "get_bind"):  # Session
            try:
                held = held.get_bind()
            except Exception as error:
                raise UnsupportedDatabaseError(f"the session is bound to no engine ({error}); {SUPPORTED}") from None
        elif hasattr(held, "engine") and held.engine is not held:  # Connection
            held = held.engine
        else:
            return held
    return held


def _named(value: Any) -> str:
    kind = type(value)
    return f"a {kind.__module__}.{kind.__qualname__}"


class _Temporary:
    """A folder for the memory of one `:memory:` engine, gone with the engine, and only in the process that made it."""

    def __init__(self, engine: Any) -> None:
        self.folder = tempfile.mkdtemp(prefix="memori-")
        weakref.finalize(engine, _remove, self.folder, os.getpid())


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


_temporaries: weakref.WeakKeyDictionary[Any, _Temporary] = weakref.WeakKeyDictionary()


def _sqlite_path(engine: Any, url: Any) -> str:
    database = url.database or ""
    if database.startswith("file:"):
        name, _, query = database[len("file:") :].partition("?")
        database = ":memory:" if {**dict(parse_qsl(query)), **url.query}.get("mode") == "memory" else name
    if database in ("", ":memory:"):
        held = _temporaries.get(engine)
        if held is None:
            held = _temporaries[engine] = _Temporary(engine)
            warnings.warn(
                "the database is in memory: what is remembered goes to a temporary file, and is gone when this process ends",
                stacklevel=5,
            )
        return os.path.join(held.folder, "memory.memori.db")
    stem, suffix = os.path.splitext(os.path.abspath(database))
    # Python's own SQLite may hold the user's file, and two SQLite libraries in one process break each other's locks.
    return f"{stem}.memori{suffix or '.db'}"


def _postgres_url(text: str) -> str:
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query))
    if "ssl" in options and "sslmode" not in options:  # asyncpg's name
        value = options["ssl"]
        options["sslmode"] = {"true": "require", "false": "disable"}.get(value.lower(), value)
    if "unix_sock" in options and "host" not in options:  # pg8000's name
        options["host"] = os.path.dirname(options["unix_sock"])
    kept = {name: value for name, value in options.items() if name in _POSTGRES_OPTIONS}
    query = f"?{urlencode(kept, safe='', quote_via=quote)}" if kept else ""
    return f"postgres://{parts.netloc}{parts.path}{query}"
