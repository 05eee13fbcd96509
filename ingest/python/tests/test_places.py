"""Where memory lives, from what a SQLAlchemy user holds and from settings; nothing is opened here."""

from __future__ import annotations

import gc
import inspect
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memori import ConfigurationError, UnsupportedDatabaseError
from memori import _database as database
from memori import _settings as settings
from sqlalchemy import create_engine
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


def test_the_default_folder_is_the_one_of_the_command_line() -> None:
    assert settings.user_data_dir({"HOME": "/home/ann"}) == Path("/home/ann/.local/share/memori-stream")
    assert settings.user_data_dir({"HOME": "/home/ann", "XDG_DATA_HOME": "/data"}) == Path("/data/memori-stream")
    assert settings.user_data_dir({"HOME": "/home/ann", "XDG_DATA_HOME": "relative"}) == Path(
        "/home/ann/.local/share/memori-stream"
    )
