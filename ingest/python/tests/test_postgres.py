"""Memory in the user's own PostgreSQL, whichever driver they have: what is theirs there stays as it was."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from double import Double
from support import PATIENCE_S, known, run, start

SERVER = os.environ.get("MEMORI_TEST_POSTGRES")
pytestmark = pytest.mark.skipif(
    SERVER is None, reason="MEMORI_TEST_POSTGRES names no server: ops/test.sh starts one, as does ops/servers.sh start-postgres"
)

# The user's own: names that ours have too, and one that is nobody else's.
_THEIRS = """
create table facts (id serial primary key, note text not null);
insert into facts (note) values ('mine'), ('also mine');
create table messages (id bigint primary key, body jsonb);
insert into messages values (1, '{"a": 1}');
create table orders (id uuid primary key, total numeric(12, 2));
create schema shop;
create table shop.entities (name text primary key);
insert into shop.entities values ('ann');
"""

_CATALOGUE = """
select table_schema, table_name, column_name, data_type, is_nullable, column_default from information_schema.columns
where table_schema not in ('memori', 'memori_control', 'pg_catalog', 'information_schema') order by 1, 2, 3
"""


def on(driver: str, database: str) -> URL:
    assert SERVER is not None
    return make_url(SERVER).set(drivername=f"postgresql+{driver}", database=database)


def connected(url: URL) -> Any:
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()


@pytest.fixture
def database() -> Iterator[str]:
    """The name of a database of the test's own, with the user's tables in it."""
    name = f"sdk_{uuid.uuid4().hex}"
    assert SERVER is not None
    with connected(make_url(SERVER).set(drivername="postgresql+psycopg")) as server:
        server.execute(text(f"create database {name}"))
        try:
            with connected(on("psycopg", name)) as connection:
                for statement in _THEIRS.split(";\n"):
                    if statement.strip():
                        connection.exec_driver_sql(statement)
            yield name
        finally:
            server.execute(text(f"drop database {name} with (force)"))


def theirs(database: str) -> list[Any]:
    """All that is in a database and not in our schemas."""
    with connected(on("psycopg", database)) as connection:
        found: list[Any] = [tuple(row) for row in connection.execute(text(_CATALOGUE))]
        for table in ("facts", "messages", "orders", "shop.entities"):
            found += [(table, *row) for row in connection.execute(text(f"select * from {table} order by 1"))]
        found += connection.execute(text("select count(*) from pg_extension where extname <> 'vector'")).scalars()
        found += sorted(connection.execute(text("select rolname from pg_roles")).scalars())
        found += connection.execute(text("show search_path")).scalars()
    return found


_SYNC = """
import json, sys
from openai import OpenAI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from memori import Memori
engine = create_engine(sys.argv[1])
mem = Memori(conn=sessionmaker(bind=engine), embedding="none", recall_deadline_ms=10_000)
mem.config.storage.build()
mem.attribution(entity_id="ann", process_id="shop")
client = OpenAI()
assert mem.llm.register(client) is mem
def say(text):
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}]).choices[0].message.content
with engine.begin() as transaction:
    notes = transaction.execute(text("select note from facts order by id")).scalars().all()
    first = say("I live in Lisbon.")
    waited = mem.augmentation.wait(60)
recalled = [fact.content for fact in mem.recall("Where do I live?")]
say("Where do I live?")
waited = waited and mem.augmentation.wait(60)
before = len(mem.recall("Where do I live?", limit=100))
mem.delete_entity_memories()
after = len(mem.recall("Where do I live?", limit=100))
print(json.dumps([notes, first, waited, recalled, before > 0, after, engine.pool.checkedout()]))
"""

_ASYNC = """
import asyncio, json, sys
from openai import AsyncOpenAI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from memori import Memori
async def main():
    engine = create_async_engine(sys.argv[1])
    mem = Memori(conn=async_sessionmaker(bind=engine), embedding="none", recall_deadline_ms=10_000)
    mem.config.storage.build()
    mem.attribution(entity_id="ann", process_id="shop")
    client = AsyncOpenAI()
    assert mem.llm.register(client) is mem
    async def say(text):
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content
    async with engine.begin() as transaction:
        notes = (await transaction.execute(text("select note from facts order by id"))).scalars().all()
        first = await say("I live in Lisbon.")
        waited = await mem.augmentation.wait_async(60)
    recalled = [fact.content for fact in await mem.arecall("Where do I live?")]
    await say("Where do I live?")
    waited = waited and await mem.augmentation.wait_async(60)
    before = len(await mem.arecall("Where do I live?", limit=100))
    await mem.adelete_entity_memories()
    after = len(await mem.arecall("Where do I live?", limit=100))
    print(json.dumps([notes, first, waited, recalled, before > 0, after, engine.pool.checkedout()]))
    await engine.dispose()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("driver", "source"),
    [("psycopg", _SYNC), ("psycopg2", _SYNC), ("pg8000", _SYNC), ("psycopg", _ASYNC), ("asyncpg", _ASYNC)],
    ids=["psycopg", "psycopg2", "pg8000", "psycopg-async", "asyncpg"],
)
def test_a_call_is_remembered_recalled_and_forgotten(
    driver: str, source: str, database: str, work: Path, env: dict[str, str], double: Double
) -> None:
    before = theirs(database)
    url = on(driver, database).render_as_string(hide_password=False)
    printed = json.loads(run(source, work, env, url).stdout)
    notes, first, waited, recalled, known_before, known_after, held = printed
    assert notes == ["mine", "also mine"]
    assert first == "You said: I live in Lisbon."
    assert waited is True
    assert any("Lisbon" in fact for fact in recalled), recalled
    assert (known_before, known_after) == (True, 0)
    assert held == 0, "memory keeps no connection of the user's pool"
    told, asked = (body["messages"] for body in double.bodies())
    assert "memori_context" not in json.dumps(told)
    assert "memori_context" in json.dumps(asked)
    assert "Lisbon" in json.dumps(asked)
    assert theirs(database) == before
    with connected(on("psycopg", database)) as connection:
        schemas = connection.execute(text("select nspname from pg_namespace where nspname like 'memori%'")).scalars().all()
    assert sorted(schemas) == ["memori", "memori_control"]


def test_processes_with_different_drivers_share_it(database: str, work: Path, env: dict[str, str]) -> None:
    program = """
import sys
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from memori import Memori
who, url = sys.argv[1:]
mem = Memori(conn=(create_async_engine if "asyncpg" in url else create_engine)(url), embedding="none")
mem.config.storage.build()
for number in range(20):
    with mem.scope(entity_id="shared"):
        mem.capture([{"role": "user", "content": f"{who}-{number}"}])
with mem.scope(entity_id=who):
    mem.capture([{"role": "user", "content": f"I live in {who}town."}])
assert mem.augmentation.wait(60), mem.augmentation.failures()
"""
    before = theirs(database)
    drivers = ["psycopg", "pg8000", "asyncpg"]
    # All make the tables at the same time.
    processes = [
        start(program, work, env, driver, on(driver, database).render_as_string(hide_password=False)) for driver in drivers
    ]
    for process in processes:
        out, err = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 0, out + err
    url = on("psycopg", database).render_as_string(hide_password=False)
    found = known(work, env, {"shared": 60, **dict.fromkeys(drivers, 1)}, url)
    assert sorted(found["shared"]["user"]) == sorted(f"{who}-{number}" for who in drivers for number in range(20))
    for who in drivers:
        assert found[who]["user"] == [f"I live in {who}town."]
        assert len([fact for fact in found[who]["facts"] if f"{who}town" in fact]) == 1, found[who]["facts"]
    assert theirs(database) == before
