"""Where memory lives, from what a SQLAlchemy user holds and from settings; nothing is opened here."""

from __future__ import annotations

import gc
import inspect
import os
import ssl
import stat
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from memori import ConfigurationError, Memori, UnsupportedDatabaseError
from memori import _database as database
from memori import _settings as settings
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker


def test_all_that_leads_to_an_engine_leads_to_the_same_place(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    asynchronous = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    factory = sessionmaker(bind=engine)
    held: list[Any] = [
        engine,
        factory,
        scoped_session(factory),
        Session(engine),
        factory(),
        asynchronous,
        async_sessionmaker(asynchronous),
        async_sessionmaker(asynchronous)(),
    ]
    with engine.connect() as connection:
        held.append(connection)
        places = {database.find(conn) for conn in held}
    assert places == {database.Target("sqlite", path=str(tmp_path / "app.memori.db"))}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///app.db", "app.memori.db"),
        ("sqlite:///data.sqlite3", "data.memori.sqlite3"),
        ("sqlite:///plain", "plain.memori.db"),
        ("sqlite:///file:shared.db?mode=rwc&uri=true", "shared.memori.db"),
    ],
)
def test_a_sqlite_file_has_a_sibling(url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database.find(create_engine(url)).path == str(tmp_path / name)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&cache=shared&uri=true"])
def test_a_database_in_memory_has_a_temporary_file_of_its_own(url: str) -> None:
    engine = create_engine(url)
    with pytest.warns(UserWarning, match="in memory"):
        first = database.find(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert database.find(sessionmaker(bind=engine)) == first
    with pytest.warns(UserWarning, match="in memory"):
        assert database.find(create_engine(url)) != first
    assert first.path is not None
    folder = Path(first.path).parent
    assert folder.is_dir()
    del engine
    gc.collect()
    assert not folder.exists()


def on(url: str) -> Any:
    """An engine, without the driver that a real one would load."""
    return SimpleNamespace(url=make_url(url))


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("postgresql://me:secret@db/app", "postgres://me:secret@db/app"),
        ("postgresql+psycopg2://me:p%40ss%2Fword@db:5433/app?sslmode=require", "postgres://me:p%40ss%2Fword@db:5433/app?sslmode=require"),
        ("postgresql+asyncpg://me@db/app?ssl=require&timeout=3", "postgres://me@db/app?sslmode=require"),
        ("postgresql+psycopg:///app?host=/var/run/postgresql", "postgres:///app?host=%2Fvar%2Frun%2Fpostgresql"),
        ("postgresql+pg8000://me@[::1]/app?application_name=shop", "postgres://me@[::1]/app?application_name=shop"),
    ],
)  # fmt: skip
def test_postgres_keeps_all_that_postgres_knows(url: str, ours: str) -> None:
    assert database.find(on(url)) == database.Target("postgres", url=ours)


def connecting(url: str, connect_args: dict[str, Any], **options: Any) -> Any:
    """A real engine, over a driver that is not installed."""
    driver = ModuleType("driver")
    for name in ("Error", "NUMBER", "DATETIME", "STRING", "ROWID", "BINARY"):
        setattr(driver, name, type(name, (Exception,), {}))
    driver.paramstyle = "pyformat"  # type: ignore[attr-defined]
    driver.__version__ = "2.9.9"  # type: ignore[attr-defined]
    driver.extras = ModuleType("extras")  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "psycopg2", driver)
        return create_engine(url, module=driver, connect_args=connect_args, **options)


URL = "postgresql+psycopg2://me@db/app"


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({}, "postgres://me@db/app"),
        ({"connect_timeout": 3, "keepalives": 1}, "postgres://me@db/app"),
        ({"user": "ann", "password": "p@ss/word"}, "postgres://ann:p%40ss%2Fword@db/app"),
        ({"host": "other", "port": 6543, "dbname": "shop"}, "postgres://me@other:6543/shop"),
        ({"host": "::1"}, "postgres://me@[::1]/app"),
        ({"host": "/run/pg", "port": 6543}, "postgres://me@/app?host=%2Frun%2Fpg&port=6543"),
        ({"sslmode": "verify-full", "sslrootcert": "/ca.pem"}, "postgres://me@db/app?sslmode=verify-full&sslrootcert=%2Fca.pem"),
        ({"ssl": True}, "postgres://me@db/app?sslmode=require"),
        ({"ssl": "verify-ca"}, "postgres://me@db/app?sslmode=verify-ca"),
        ({"application_name": "shop"}, "postgres://me@db/app?application_name=shop"),
    ],
)  # fmt: skip
def test_what_connect_args_say_holds(given: dict[str, Any], ours: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert database.find(connecting(URL, given)).url == ours


@pytest.mark.parametrize(("checks_name", "mode"), [(True, "verify-full"), (False, "verify-ca")])
def test_an_ssl_context_s_demands_hold_though_its_certificates_cannot_be_read(checks_name: bool, mode: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = checks_name
    with pytest.warns(UserWarning, match="SSL context"):
        assert database.find(connecting(URL, {"ssl_context": context})).url == f"postgres://me@db/app?sslmode={mode}"


def test_an_ssl_context_that_checks_nothing_asks_for_encryption() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert database.find(connecting(URL, {"ssl": context})).url == "postgres://me@db/app?sslmode=require"


def test_what_cannot_be_taken_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="passfile, service"):
        assert database.find(connecting(URL, {"service": "x", "passfile": "y"})).url == "postgres://me@db/app"
    with pytest.warns(UserWarning, match="password"):
        database.find(connecting(URL, {"password": lambda: "token"}))
    with pytest.warns(UserWarning, match="creator"):
        assert database.find(connecting(URL, {"host": "x"}, creator=lambda: None)).url == "postgres://me@db/app"
    with pytest.warns(UserWarning, match="creator"):
        database.find(create_engine("sqlite:///app.db", creator=lambda: None))
    engine = connecting(URL, {"host": "other"})
    event.listen(engine, "do_connect", lambda *_: None)
    with pytest.warns(UserWarning, match="do_connect"):
        assert database.find(engine).url == "postgres://me@other/app"


def test_a_place_is_named_without_its_password() -> None:
    one = database.find(on("postgresql://me:old@db:5432/app"))
    other = database.find(on("postgresql+asyncpg://me:new@db:5432/app?ssl=require"))
    assert one.identity == other.identity
    assert "old" not in one.identity
    assert one.identity != database.find(on("postgresql://me:old@db:5432/other")).identity


@pytest.mark.parametrize(
    "conn",
    [on("mysql://db/app"), on("oracle://db/app"), on("mssql+pyodbc://db/app"), object(), "sqlite:///x.db", sessionmaker(), 7],
)
def test_what_is_not_supported_is_told_what_is(conn: Any) -> None:
    with pytest.raises(UnsupportedDatabaseError, match=r"SQLite .* PostgreSQL \(psycopg, psycopg2, asyncpg, pg8000\)"):
        database.find(conn)


def read(environ: dict[str, str] | None = None, **given: Any) -> settings.Settings:
    every = dict.fromkeys(name for name in inspect.signature(settings.read).parameters if name != "environ")
    return settings.read(**{**every, **given}, environ=environ or {})


def test_keywords_then_the_environment_then_defaults() -> None:
    env = {
        "MEMORI_RECALL_DEADLINE_MS": "90",
        "MEMORI_API_KEY": "env",
        "MEMORI_ON_QUOTA": "raise",
        "MEMORI_API_URL": "https://m/",
    }
    assert read(env).recall_deadline_ms == 90
    assert read(env, recall_deadline_ms=70).recall_deadline_ms == 70
    assert read(env, api_key="given").api_key == "given"
    assert (read(env).on_quota, read().on_quota) == ("raise", "pass")
    assert read(env).api_url == "https://m"
    assert read().recall_deadline_ms is None


def test_an_endpoint_is_asked_for_by_naming_it() -> None:
    env = {"MEMORI_EXTRACTOR_BASE_URL": "http://llm/v1", "MEMORI_EXTRACTOR_MODEL": "m", "MEMORI_EXTRACTOR_API_KEY": "k"}
    assert read(env).extractor == {"kind": "llm", "base_url": "http://llm/v1", "model": "m", "api_key": "k"}
    assert read({"MEMORI_EMBEDDING": "none"}).embedding == {"kind": "none"}
    assert read(extractor="builtin").extractor == {"kind": "builtin"}
    assert read().extractor is None
    assert read(embedding={"base_url": "http://e", "model": "m", "dimensions": 8}).embedding == {
        "kind": "openai",
        "base_url": "http://e",
        "model": "m",
        "dimensions": 8,
    }


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"recall_deadline_ms": 0}, "recall_deadline_ms"),
        ({"recall_deadline_ms": True}, "recall_deadline_ms"),
        ({"recall_limit": 1001}, "recall_limit"),
        ({"on_quota": "explode"}, "on_quota"),
        ({"api_url": "platform.example"}, "api_url"),
        ({"extractor": "magic"}, "extractor"),
        ({"extractor": {"kind": "llm", "url": "x"}}, "extractor has no url"),
        ({"embedding": {"kind": "openai", "dimensions": "many"}}, "dimensions"),
        ({"environ": {"MEMORI_TOKEN_BUDGET": "much"}}, "MEMORI_TOKEN_BUDGET"),
        ({"environ": {"MEMORI_ON_QUOTA": "maybe"}}, "on_quota"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read(**given)


def test_secrets_are_not_shown() -> None:
    shown = repr(
        read(api_key="sk-secret", extractor={"kind": "llm", "base_url": "http://x", "model": "m", "api_key": "sk-hidden"})
    )
    assert "sk-" not in shown


def test_what_is_spooled_for_one_place_is_not_in_another_s_folder(tmp_path: Path) -> None:
    chosen = read(data_dir=tmp_path)
    folders = {settings.folder_for(chosen, identity) for identity in ("a", "b", "a")}
    assert len(folders) == 2
    assert all(os.path.isdir(folder) for folder in folders)


def mode_of(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_folders_that_hold_conversations_are_the_user_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        base = tmp_path / "new" / "data"
        folder = Path(settings.folder_for(read(data_dir=base), "a"))
        Memori(data_dir=tmp_path / "other" / "data", embedding="none")
    finally:
        os.umask(before)
    made = [folder, folder.parent, base, base.parent, tmp_path / "other" / "data", tmp_path / "other"]
    assert [mode_of(path) for path in made] == [0o700] * 6


def unwritable_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leaves nothing but the folder for temporary files, and gives the user's in there."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"memori-stream-{os.getuid()}"


def test_without_a_home_the_spool_is_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = unwritable_home(tmp_path, monkeypatch)
    first, second = (settings.folder_for(read(), "a") for _ in range(2))
    assert first == second
    assert Path(first).parent == known
    assert (mode_of(known), mode_of(Path(first))) == (0o700, 0o700)


@pytest.mark.parametrize("planted", ["open", "link", "somebody's"])
def test_a_folder_that_somebody_else_prepared_is_not_taken(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = unwritable_home(tmp_path, monkeypatch)
    if planted == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        known.symlink_to(tmp_path / "elsewhere")
    else:
        known.mkdir(mode=0o700)
    if planted == "open":
        known.chmod(0o777)
    if planted == "somebody's":
        own = os.getuid()
        monkeypatch.setattr(settings, "_user", lambda: str(own))
        monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.warns(UserWarning, match="not this user's alone"):
        chosen = Path(settings.folder_for(read(), "a"))
    assert chosen.parent != known
    assert mode_of(chosen.parent) == 0o700
    assert not list(known.iterdir())


def test_the_default_folder_is_the_one_of_the_command_line() -> None:
    assert settings.user_data_dir({"HOME": "/home/ann"}) == Path("/home/ann/.local/share/memori-stream")
    assert settings.user_data_dir({"HOME": "/home/ann", "XDG_DATA_HOME": "/data"}) == Path("/data/memori-stream")
    assert settings.user_data_dir({"HOME": "/home/ann", "XDG_DATA_HOME": "relative"}) == Path(
        "/home/ann/.local/share/memori-stream"
    )
