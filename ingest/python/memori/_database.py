"""From what SQLAlchemy users hold to where memory lives. SQLAlchemy itself is never imported: whoever passes an engine has it."""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
import warnings
import weakref
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from ._errors import UnsupportedDatabaseError

SUPPORTED = (
    "supported are SQLAlchemy engines, sessions and session factories, synchronous and asynchronous, on SQLite (a file or "
    ":memory:; pysqlite, aiosqlite) and on PostgreSQL (psycopg, psycopg2, asyncpg, pg8000)"
)

# What Postgres itself understands; drivers have more, which are theirs.
_POSTGRES_OPTIONS = frozenset(
    {"sslmode", "sslrootcert", "sslcert", "sslkey", "host", "hostaddr", "port", "application_name", "options"}
)

# How a driver goes about its work, not where or as whom.
_DRIVERS_OWN = frozenset(
    {"async_fallback", "async_creator_fn", "autocommit", "client_encoding", "command_timeout", "connect_timeout", "connection_factory", "context", "cursor_factory",
     "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "loop", "max_cacheable_statement_size",
     "max_cached_statement_lifetime", "prepare_threshold", "prepared_statement_cache_size", "prepared_statement_name_func",
     "row_factory", "statement_cache_size", "tcp_keepalive", "tcp_user_timeout", "timeout"}
)  # fmt: skip


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
        _creator_is_known(engine)
        return Target("sqlite", path=_sqlite_path(engine, url))
    if backend in ("postgresql", "postgres"):
        return Target("postgres", url=_postgres_url(url.render_as_string(hide_password=False), _connect_args(engine, url)))
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


def _creator_is_known(engine: Any) -> bool:
    """Whether connections are made from the URL and `connect_args`; what makes them otherwise is the user's, and cannot be asked."""
    creator = getattr(getattr(engine, "pool", None), "_creator", None)
    if creator is None or getattr(creator, "__module__", None) == "sqlalchemy.engine.create":
        return True
    _warn(
        "the engine's connections are made by a `creator` (or a pool) of its own, which memory does not ask: it goes by the URL alone"
    )
    return False


def _connect_args(engine: Any, url: Any) -> dict[str, Any]:
    """What `connect_args` say that the URL does not."""
    if not _creator_is_known(engine):
        return {}
    if getattr(getattr(getattr(engine, "dialect", None), "dispatch", None), "do_connect", None):
        _warn("the engine has listeners of `do_connect`, whose changes (a token as the password) memory does not see")
    creator = getattr(getattr(engine, "pool", None), "_creator", None)
    names = getattr(getattr(creator, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(creator, "__closure__", None) or (), strict=False))
    given = cells["cparams"].cell_contents if "cparams" in cells else {}
    return {name: value for name, value in given.items() if name not in url.query}


def _warn(text: str) -> None:
    warnings.warn(f"{text}. Give Memori an engine whose URL says where and as whom to connect", stacklevel=7)


def _with_connect_args(parts: SplitResult, options: dict[str, str], given: dict[str, Any]) -> SplitResult:
    """The URL with what `connect_args` replace in it; libpq's names, and the drivers' own for the same."""
    user, password, host, port = parts.username, parts.password, parts.hostname or "", parts.port
    user, password = (None if text is None else unquote(text) for text in (user, password))
    path = parts.path
    unknown = []
    for name, value in given.items():
        if value is None or name in _DRIVERS_OWN:
            continue
        if name == "user":
            user = str(value)
        elif name in ("password", "passwd"):
            if not isinstance(value, str):
                unknown.append(name)
            else:
                password = value
        elif name in ("dbname", "database"):
            path = f"/{quote(str(value), safe='')}"
        elif name == "host":
            options.pop("host", None)
            host = str(value)
        elif name == "port":
            options.pop("port", None)
            port = value
        elif name in ("ssl", "ssl_context"):
            _put_ssl(options, value)
        elif name in _POSTGRES_OPTIONS and isinstance(value, (str, int)):
            options[name] = str(value)
        else:
            unknown.append(name)
    if unknown:
        _warn(f"connect_args {', '.join(sorted(unknown))} are the driver's, and memory does not take them")
    if "/" in host or "," in host:  # a socket's folder, several hosts
        options["host"], host = host, ""
        if port is not None:
            options["port"], port = str(port), None
    name = "" if user is None else quote(user, safe="")
    if password is not None:
        name += f":{quote(password, safe='')}"
    place = f"[{host}]" if ":" in host else host
    netloc = f"{name}@{place}" if name else place
    return parts._replace(netloc=netloc if port is None else f"{netloc}:{port}", path=path)


def _put_ssl(options: dict[str, str], value: Any) -> None:
    if isinstance(value, str):
        options["sslmode"] = value
        return
    if isinstance(value, bool):
        options["sslmode"] = "require" if value else "disable"
        return
    verifies = getattr(value, "verify_mode", None) != ssl.CERT_NONE
    options["sslmode"] = "require" if not verifies else "verify-full" if getattr(value, "check_hostname", True) else "verify-ca"
    if verifies:
        _warn(
            "connect_args hold an SSL context, whose certificates memory cannot read: it checks the server by the system's, or by "
            "sslrootcert in the URL"
        )


def _postgres_url(text: str, given: dict[str, Any]) -> str:
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query))
    if "ssl" in options and "sslmode" not in options:  # asyncpg's name
        value = options["ssl"]
        options["sslmode"] = {"true": "require", "false": "disable"}.get(value.lower(), value)
    if "unix_sock" in options and "host" not in options:  # pg8000's name
        options["host"] = os.path.dirname(options["unix_sock"])
    if given:
        parts = _with_connect_args(parts, options, given)
    kept = {name: value for name, value in options.items() if name in _POSTGRES_OPTIONS}
    query = f"?{urlencode(kept, safe='', quote_via=quote)}" if kept else ""
    return f"postgres://{parts.netloc}{parts.path}{query}"
