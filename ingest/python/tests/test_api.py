"""What `Memori` promises to whoever calls it: attribution, sessions, scopes, recall, capture, deletion, closing."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from memori import (
    AttributionError,
    ConfigurationError,
    Fact,
    InvalidRequestError,
    Memori,
    MemoriError,
    QuotaExceededError,
    RecallError,
    UnsupportedDatabaseError,
    UnsupportedLLMProviderError,
)
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from double import Behaviour, Double
from support import exported, free_port, until

# What the SDK of this line sends through.
httpx: Any = sys.modules.get("httpx2") or sys.modules["httpx"]

LISBON = "I live in Lisbon."


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture
def mem(data_dir: Path, request: pytest.FixtureRequest) -> Memori:
    mem = Memori(data_dir=data_dir, embedding="none", recall_deadline_ms=5000)
    mem.config.storage.build()
    return mem.attribution(entity_id=request.node.name, process_id="api")


@pytest.fixture
def client(double: Double) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=double.openai_url, api_key="sk-double") as client:
        yield client


def say(client: openai.OpenAI, text: str = LISBON) -> str | None:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content


def learn(mem: Memori, *texts: str) -> None:
    for text in texts:
        mem.capture([{"role": "user", "content": text}])
    assert mem.augmentation.wait(30), mem.augmentation.failures()


# Errors


def test_every_error_is_one_of_ours() -> None:
    import memori

    errors = [value for name, value in vars(memori).items() if name.endswith("Error")]
    assert len(errors) == 10
    assert all(issubclass(error, MemoriError) for error in errors)


@pytest.mark.parametrize("thing", [object(), None, "client", 7, SimpleNamespace(_client=object()), {"_client": 1}])
def test_what_holds_no_http_client_is_not_registered(thing: Any, mem: Memori) -> None:
    with pytest.raises(UnsupportedLLMProviderError, match="openai .* anthropic"):
        mem.llm.register(thing)


def test_a_client_that_lets_nothing_be_replaced_is_not_supported(mem: Memori, client: openai.OpenAI) -> None:
    class Frozen:
        __slots__ = ()

        @property
        def _client(self) -> Any:
            return httpx.Client()

    with pytest.raises(UnsupportedLLMProviderError, match="_client"):
        mem.llm.register(Frozen())


def test_registering_nothing_is_a_mistake(mem: Memori) -> None:
    with pytest.raises(InvalidRequestError, match="register takes"):
        mem.llm.register()


def test_an_unsupported_database_names_the_supported() -> None:
    with pytest.raises(UnsupportedDatabaseError, match="PostgreSQL"):
        Memori(conn=object())


def test_a_wrong_setting_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="recall_deadline_ms"):
        Memori(data_dir=tmp_path, recall_deadline_ms=-1)
    with pytest.raises(ConfigurationError, match="base_url"):
        Memori(data_dir=tmp_path, extractor="llm")


# Attribution


@pytest.mark.parametrize("wrong", ["", "x" * 257, "é" * 129, "a\0b", "\ud800", True, b"bytes", ["a"], {}])
@pytest.mark.parametrize("name", ["entity_id", "process_id"])
def test_names_that_cannot_be(name: str, wrong: Any, mem: Memori) -> None:
    before = mem.current_attribution()
    with pytest.raises(AttributionError, match=name):
        mem.attribution(**{name: wrong})
    with pytest.raises(AttributionError, match=name):
        mem.scope(**{name: wrong})
    assert mem.current_attribution() == before


@pytest.mark.parametrize("right", ["x", "x" * 256, "é" * 128, "Ünïcode 東京", "a/b?c#d", 42, uuid.UUID(int=1)])
def test_names_that_can(right: Any, mem: Memori) -> None:
    mem.attribution(entity_id=right)
    learn(mem, f"My code is {uuid.uuid4().hex}.")
    assert len(exported(mem)) >= 1
    mem.delete_entity_memories()


def test_attribution_of_nobody_is_refused(mem: Memori) -> None:
    with pytest.raises(AttributionError, match="entity_id"):
        mem.attribution()
    with pytest.raises(AttributionError, match="scope takes"):
        mem.scope()


def test_attribution_gives_the_memory_back_and_keeps_what_it_is_not_told(mem: Memori) -> None:
    assert mem.attribution(entity_id="e2") is mem
    assert mem.current_attribution() == ("e2", "api", None)
    assert mem.attribution(process_id="p2").current_attribution() == ("e2", "p2", None)


def test_without_attribution_a_call_goes_out_as_it_is(data_dir: Path, client: openai.OpenAI, double: Double) -> None:
    mem = Memori(data_dir=data_dir, embedding="none").llm.register(client)
    before = mem.stats()["python"].get("attribution_missing", 0)
    assert say(client) == f"You said: {LISBON}"
    assert b"memori_context" not in double.requests[-1].body
    assert mem.stats()["python"]["attribution_missing"] == before + 1
    with pytest.raises(AttributionError, match="attribution"):
        mem.recall("where")
    with pytest.raises(AttributionError, match="attribution"):
        mem.capture([{"role": "user", "content": "x"}])
    with pytest.raises(AttributionError, match="entity_id"):
        mem.delete_entity_memories()


# Sessions


def test_sessions(mem: Memori) -> None:
    assert mem.session_id is None
    first = mem.new_session()
    assert mem.session_id == first
    learn(mem, "I live in Lisbon.")
    second = mem.new_session()
    assert second != first
    learn(mem, "I work in Porto.")
    assert mem.set_session("mine") == "mine"
    learn(mem, "I was born in Faro.")
    assert [message["session_id"] for message in exported(mem)] == [first, second, "mine"]
    only = mem.recall("live work born", limit=50, session_id=second, include_messages=True)
    assert {message.session_id for message in only.messages} == {second}
    with pytest.raises(AttributionError, match="session_id"):
        mem.set_session("")


def test_a_scope_has_its_own_session(mem: Memori) -> None:
    mem.set_session("outer")
    with mem.scope(session_id="inner"):
        assert mem.session_id == "inner"
    with mem.scope(process_id="other"):
        assert mem.session_id == "outer"
    with mem.scope(entity_id="somebody else"):
        assert mem.session_id is None
    assert mem.session_id == "outer"


# Scopes


def test_a_scope_outranks_attribution_until_it_ends(mem: Memori, client: openai.OpenAI) -> None:
    name = mem.current_attribution().entity_id  # type: ignore[union-attr]
    mem.llm.register(client)
    with pytest.raises(RuntimeError, match="out"), mem.scope(entity_id=f"{name}-a"):
        say(client, "I am a.")
        with mem.scope(entity_id=f"{name}-b"):
            say(client, "I am b.")
        mem.attribution(entity_id=f"{name}-c")
        say(client, "I am a too.")
        raise RuntimeError("out")
    say(client, "I am c.")
    assert mem.augmentation.wait(30)
    said = {
        suffix: [m["content"] for m in exported(mem, f"{name}{suffix}") if m["role"] == "user"]
        for suffix in ("", "-a", "-b", "-c")
    }
    assert said == {"": [], "-a": ["I am a.", "I am a too."], "-b": ["I am b."], "-c": ["I am c."]}


def test_a_scope_chooses_among_memories_of_one_client(mem: Memori, data_dir: Path, client: openai.OpenAI) -> None:
    other = Memori(data_dir=data_dir, embedding="none", recall_limit=3)
    mem.llm.register(client)
    other.attribution(entity_id="of-the-other")
    other.llm.register(client)
    with mem.scope(entity_id="of-the-first"):
        say(client, "In the scope.")
    say(client, "Outside.")
    assert mem.augmentation.wait(30)
    assert other.augmentation.wait(30)
    assert [m["content"] for m in exported(mem, "of-the-first")][:1] == ["In the scope."]
    assert [m["content"] for m in exported(mem, "of-the-other")][:1] == ["Outside."]


def test_asynchronous_scopes(mem: Memori) -> None:
    async def main() -> list[str | None]:
        async def one(entity: str) -> str | None:
            async with mem.scope(entity_id=entity) as attribution:
                await asyncio.sleep(0.001)
                assert mem.current_attribution() == attribution
                return attribution.entity_id

        return await asyncio.gather(*[one(str(number)) for number in range(100)])

    assert asyncio.run(main()) == [str(number) for number in range(100)]


# Recall


def test_what_recall_gives(mem: Memori) -> None:
    learn(mem, LISBON, "I like green tea.")
    facts = mem.recall("where do I live?", limit=1)
    assert isinstance(facts, list)
    (fact,) = facts
    assert isinstance(fact, Fact)
    assert "Lisbon" in fact.content
    assert fact["content"] == fact.content == str(fact)
    assert 0 < fact.score <= 1
    assert (fact.kind, fact.mentions) == ("fact", 1)
    assert uuid.UUID(fact.fact_id)
    assert isinstance(fact.first_mentioned_at, datetime)
    (source,) = fact.sources
    assert source.event_id == source["event_id"]
    assert isinstance(source.occurred_at, datetime)
    assert fact.subject is not None
    assert "Lisbon" in repr(fact)
    assert fact.to_dict()["fact_id"] == fact.get("fact_id") == fact.fact_id
    with pytest.raises(AttributeError, match="colour"):
        _ = fact.colour
    with pytest.raises(KeyError):
        _ = fact["colour"]
    assert facts.took_ms is not None
    assert json.loads(json.dumps(fact.to_dict())) == fact.to_dict()


def test_standing_instructions_come_beside_the_facts(mem: Memori) -> None:
    learn(mem, "Always answer in metric units.")
    facts = mem.recall("how far is it?")
    assert any("metric" in instruction.content for instruction in facts.instructions)


@pytest.mark.parametrize("limit", [0, -1, 1001, True, "5", 2.5, None])
def test_limits_that_cannot_be(limit: Any, mem: Memori) -> None:
    with pytest.raises(InvalidRequestError, match="limit is a whole number from 1 to 1000"):
        mem.recall("x", limit=limit)


def test_limits_hold(mem: Memori) -> None:
    learn(mem, *[f"I own book number {number}." for number in range(20)])
    assert len(mem.recall("which book do I own?")) == 5
    assert len(mem.recall("which book do I own?", limit=1)) == 1
    assert len(mem.recall("which book do I own?", limit=1000)) >= 20


def test_options_are_checked(mem: Memori) -> None:
    with pytest.raises(InvalidRequestError, match="no option colour"):
        mem.recall("x", colour="red")
    with pytest.raises(InvalidRequestError, match="a query is text"):
        mem.recall(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="zone"):
        mem.recall("x", as_of=datetime(2020, 1, 1))
    with pytest.raises(InvalidRequestError):
        mem.recall("x", kinds=["nonsense"])
    assert mem.recall("x", as_of=datetime(2020, 1, 1, tzinfo=timezone.utc)) == []


def test_nobody_knows_a_stranger(mem: Memori) -> None:
    assert mem.recall("anything", entity_id="a stranger") == []


def test_many_queries_at_once_keep_their_order(mem: Memori) -> None:
    name = mem.current_attribution().entity_id  # type: ignore[union-attr]
    for number in range(3):
        with mem.scope(entity_id=f"{name}-{number}"):
            mem.capture([{"role": "user", "content": f"I live in town{number}."}])
    assert mem.augmentation.wait(30)
    queries: list[Any] = [{"query": "where live", "entity_id": f"{name}-{number}"} for number in (2, 0, 1)]
    found = mem.recall_many([*queries, "where live"], limit=2)
    assert [[fact.content[-5:] for fact in facts][:1] for facts in found] == [["town2"], ["town0"], ["town1"], []]
    assert asyncio.run(mem.arecall_many(queries, limit=2)) == found[:3]
    assert len(mem.recall_many(["where live"] * 250)) == 250
    assert mem.recall_many([]) == []
    with pytest.raises(InvalidRequestError, match="list of queries"):
        mem.recall_many("where live")


def test_asynchronous_twins(mem: Memori) -> None:
    async def main() -> None:
        mem.capture([{"role": "user", "content": LISBON}])
        assert await mem.augmentation.wait_async(30)
        assert "Lisbon" in (await mem.arecall("where do I live?"))[0].content
        receipt = await mem.adelete_entity_memories()
        assert receipt["status"] == "applied"
        assert await mem.arecall("where do I live?") == []

    asyncio.run(main())


def test_a_running_loop_is_no_obstacle(mem: Memori) -> None:
    """As in a notebook, where every cell runs in a loop."""

    async def cell() -> list[Fact]:
        mem.capture([{"role": "user", "content": LISBON}])
        assert mem.augmentation.wait(30)
        return mem.recall("where do I live?")

    assert "Lisbon" in asyncio.run(cell())[0].content


def test_a_recall_that_is_late_is_an_error_in_time(data_dir: Path) -> None:
    """The platform takes the question and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        late = Memori(api_key="k", api_url=url, data_dir=data_dir, exit_deadline_ms=100).attribution(entity_id="ann")
        began = time.monotonic()
        with pytest.raises(RecallError):
            late.recall("where", timeout=0.3)
        assert 0.25 < time.monotonic() - began < 2


# Capture


def test_capture(mem: Memori) -> None:
    name = mem.capture(
        [{"role": "user", "content": LISBON}, {"role": "assistant", "content": "Nice."}],
        event_id=f"mine-{uuid.uuid4()}",
        occurred_at=datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
        metadata={"channel": "mail"},
    )
    assert name.startswith("mine-")
    assert mem.augmentation.wait(30)
    user, assistant = exported(mem)
    assert (user["content"], assistant["content"]) == (LISBON, "Nice.")
    assert user["occurred_at"].startswith("2024-05-01T12:00:00")
    (fact,) = mem.recall("where do I live?", limit=1)
    assert fact.first_mentioned_at == datetime(2024, 5, 1, 12, tzinfo=timezone.utc)


def test_the_same_event_counts_once(mem: Memori) -> None:
    name = f"mine-{uuid.uuid4()}"
    for _ in range(3):
        mem.capture([{"role": "user", "content": LISBON}], event_id=name)
    assert mem.augmentation.wait(30)
    assert len(exported(mem)) == 1


def test_durable_capture_is_confirmed(mem: Memori) -> None:
    assert mem.capture([{"role": "user", "content": LISBON}], durable=True)


@pytest.mark.parametrize(
    "messages",
    ["text", {"role": "user", "content": "x"}, [], [{"role": "user"}], [{"content": "x"}], [{"role": "robot", "content": "x"}],
     [{"role": "user", "content": object()}]],
)  # fmt: skip
def test_what_are_no_messages(messages: Any, mem: Memori) -> None:
    with pytest.raises(InvalidRequestError):
        mem.capture(messages)


def test_what_failed_for_good_is_told(tmp_path: Path) -> None:
    """The model that extracts answers what is no facts: the event is dead-lettered."""
    with Double() as extractor:
        extractor.standing = Behaviour(body=b'{"choices": [{"message": {"role": "assistant", "content": "no JSON"}}]}')
        mem = Memori(
            data_dir=tmp_path,
            embedding="none",
            extractor={"kind": "llm", "base_url": extractor.openai_url, "model": "m", "api_key": "k"},
        )
        mem.attribution(entity_id="ann")
        name = mem.capture([{"role": "user", "content": LISBON}])
        assert mem.augmentation.wait(60) is False
        (failure,) = mem.augmentation.failures()
        assert (failure.event_id, failure.status) == (name, "dead_lettered")
        assert failure.failure_class
        assert failure.reason
        mem.close()


# Deletion


def test_deleted_is_gone_and_others_are_not(mem: Memori) -> None:
    name = mem.current_attribution().entity_id  # type: ignore[union-attr]
    learn(mem, LISBON)
    with mem.scope(entity_id=f"{name}-other"):
        mem.capture([{"role": "user", "content": "I live in Porto."}])
    assert mem.augmentation.wait(30)
    receipt = mem.delete_entity_memories()
    assert receipt["status"] == "applied"
    assert mem.recall("where do I live?", include_messages=True) == []
    assert exported(mem) == []
    assert "Porto" in mem.recall("where do I live?", entity_id=f"{name}-other")[0].content
    mem.delete_entity_memories(entity_id=f"{name}-other")
    assert mem.recall("where do I live?", entity_id=f"{name}-other") == []
    learn(mem, "I live in Faro.")
    assert "Faro" in mem.recall("where do I live?")[0].content


# Augmentation


def test_knobs_take_effect_and_say_so(tmp_path: Path) -> None:
    with Memori(data_dir=tmp_path, embedding="none") as mem:
        mem.config.storage.build()
        assert mem.augmentation.max_workers == 50
        mem.augmentation.max_workers = 100
        mem.augmentation.db_writer_batch_size = 200
        assert (mem.augmentation.max_workers, mem.augmentation.db_writer_batch_size) == (100, 200)
        stats = mem.stats()
        assert stats["workers"]["asked"] == stats["system"]["workers"]["effective"] == 100
        assert stats["batch_rows"]["asked"] == stats["system"]["batch_rows"]["effective"] == 200
        for wrong in (0, -1, True, "9", 1.5, None):
            with pytest.raises(ConfigurationError, match="max_workers"):
                mem.augmentation.max_workers = wrong
            with pytest.raises(ConfigurationError, match="db_writer_batch_size"):
                mem.augmentation.db_writer_batch_size = wrong
        assert mem.augmentation.max_workers == 100


def test_waiting(mem: Memori) -> None:
    assert mem.augmentation.wait() is True
    assert mem.augmentation.wait(0) is True
    assert mem.augmentation.failures() == []
    for wrong in (-1, "1", True, float("nan")):
        with pytest.raises(ConfigurationError, match="timeout"):
            mem.augmentation.wait(wrong)  # type: ignore[arg-type]


# Databases


def test_memory_lives_beside_the_user_s_sqlite_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (x INTEGER)")
    with Memori(conn=sessionmaker(bind=engine), data_dir=tmp_path, embedding="none") as mem:
        with caplog.at_level(logging.INFO, logger="memori"):
            said = mem.config.storage.build()
        assert str(tmp_path / "app.memori.db") in said
        assert said in caplog.text
        mem.attribution(entity_id="ann")
        learn(mem, LISBON)
    assert (tmp_path / "app.memori.db").exists()
    with engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    assert tables == ["mine"], "nothing of ours in the user's own file"
    with Memori(conn=engine, data_dir=tmp_path, embedding="none") as again:
        again.config.storage.build()
        assert "Lisbon" in again.recall("where", entity_id="ann")[0].content


def test_a_database_in_memory_is_one_for_all_of_its_engine(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")
    with pytest.warns(UserWarning, match="in memory"):
        first = Memori(conn=engine, data_dir=tmp_path, embedding="none")
    first.config.storage.build()
    first.attribution(entity_id="ann")
    learn(first, LISBON)
    second = Memori(conn=sessionmaker(bind=engine), data_dir=tmp_path, embedding="none")
    assert "Lisbon" in second.recall("where", entity_id="ann")[0].content
    first.close()
    second.close()


# The end


def test_after_closing_calls_go_by(tmp_path: Path, client: openai.OpenAI, double: Double) -> None:
    with Memori(data_dir=tmp_path, embedding="none").llm.register(client) as mem:
        mem.attribution(entity_id="ann")
        say(client)
    assert mem.closed
    mem.close()
    double.clear()
    assert say(client) == f"You said: {LISBON}"
    assert b"memori_context" not in double.requests[-1].body
    with Memori(data_dir=tmp_path, embedding="none") as again:
        again.config.storage.build()
        again.attribution(entity_id="ann")
        # Durable it is; applied it is soon.
        held = until(lambda: exported(again), "what was captured before is there")
        assert [message["content"] for message in held] == [LISBON, f"You said: {LISBON}"]


def test_closing_ends_nothing_that_others_share(tmp_path: Path, client: openai.OpenAI) -> None:
    """A stream that is being read, and others who come and go at the same moment."""
    mem = Memori(data_dir=tmp_path, embedding="none").llm.register(client)
    mem.config.storage.build()
    mem.attribution(entity_id="ann")
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": LISBON}], stream=True)
    next(stream)
    engine = mem.engine()
    mem.close()
    assert list(stream)

    def one(number: int) -> bool:
        with Memori(data_dir=tmp_path, embedding="none") as other, other.scope(entity_id=f"e{number}"):
            other.capture([{"role": "user", "content": LISBON}])
            return other.augmentation.wait(30)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(80))) == [True] * 80
    with Memori(data_dir=tmp_path, embedding="none") as again:
        assert again.engine() is engine
        until(lambda: len(exported(again, "ann")) == 2, "the stream is captured")
        assert all(len(exported(again, f"e{number}")) == 1 for number in range(80))


def test_closing_does_not_hold_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed_on: list[int] = []

    async def main() -> None:
        async with Memori(data_dir=tmp_path, embedding="none") as mem:
            engine = mem.engine()
            flush = engine.flush
            monkeypatch.setattr(engine, "flush", lambda: (flushed_on.append(threading.get_ident()), flush()))
        assert mem.closed
        await mem.aclose()

    asyncio.run(main())
    assert len(flushed_on) == 1
    assert flushed_on[0] != threading.get_ident()


def _requests_shown(client: openai.OpenAI, url: str) -> Iterator[Any]:
    """Every way to the request that an answer or an error has."""
    options: Any = {"model": "m", "messages": [{"role": "user", "content": "where do I live?"}]}
    yield client.chat.completions.with_raw_response.create(**options).http_request
    with client.chat.completions.with_streaming_response.create(**options, stream=True) as response:
        yield response.http_request
        response.read()

    dead = client.with_options(base_url=url, max_retries=0)
    with pytest.raises(openai.APIConnectionError) as raised:
        dead.chat.completions.create(**options)
    yield raised.value.request
    yield raised.value.__cause__.request  # type: ignore[union-attr]


def test_the_caller_s_own_request_is_shown(mem: Memori, client: openai.OpenAI, double: Double) -> None:
    learn(mem, LISBON)
    mem.llm.register(client)
    shown = list(_requests_shown(client, f"http://127.0.0.1:{free_port()}/v1"))
    assert len(shown) == 4
    assert all(b"memori_context" in request.body for request in double.requests)
    assert len(double.requests) == 2
    for request in shown:
        assert json.loads(request.content)["messages"] == [{"role": "user", "content": "where do I live?"}]
        assert int(request.headers["content-length"]) == len(request.content)


def test_the_caller_s_own_request_is_shown_through_a_redirect(mem: Memori, double: Double) -> None:
    learn(mem, LISBON)
    sent: list[bytes] = []

    def provider(request: Any) -> Any:
        sent.append(request.content)
        if request.url.path.endswith("/moved"):
            return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": "In Lisbon."}}]})
        return httpx.Response(307, headers={"location": "/moved"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(provider), follow_redirects=True)

    async def main() -> Any:
        async with openai.AsyncOpenAI(base_url="http://provider/v1", api_key="k", http_client=http) as asking:
            mem.llm.register(asking)
            raw = await asking.chat.completions.with_raw_response.create(
                model="m", messages=[{"role": "user", "content": "where do I live?"}]
            )
            return raw.http_response

    response = asyncio.run(main())
    assert len(sent) == 2
    assert all(b"memori_context" in body for body in sent)
    for answer in (response, *response.history):
        assert b"memori_context" not in answer.request.content
    assert response.request.url.path == "/moved"


def test_closing_one_leaves_the_others(data_dir: Path, mem: Memori, client: openai.OpenAI) -> None:
    other = Memori(data_dir=data_dir, embedding="none", recall_deadline_ms=5000)
    other.close()
    mem.llm.register(client)
    assert say(client) == f"You said: {LISBON}"
    assert mem.augmentation.wait(30)
    assert len(exported(mem)) == 2


def test_a_quota_is_raised_only_where_it_is_asked_for(
    data_dir: Path, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memori, "quota_error", lambda _: QuotaExceededError("used up", retry_after_s=3.0))
    passing = Memori(data_dir=data_dir, embedding="none").llm.register(client).attribution(entity_id="ann")
    assert say(client) == f"You said: {LISBON}"
    passing.close()
    mem = Memori(data_dir=data_dir, embedding="none", on_quota="raise").llm.register(client).attribution(entity_id="ann")
    assert not mem.closed
    with pytest.raises(QuotaExceededError, match="used up") as raised:
        say(client)
    assert raised.value.retry_after_s == 3.0
    monkeypatch.undo()
    assert say(client) == f"You said: {LISBON}"
