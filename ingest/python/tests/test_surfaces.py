"""Every surface of every SDK: captured and injected, and nothing else is different for anybody."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from memori import Memori

from double import Behaviour, Double, Recorded
from support import exported
from surfaces import ANSWER, QUESTION, SURFACES, Missing, Surface, client_for, dumped

_BLOCK = re.compile(r"\s*<memori_context>.*?</memori_context>", re.DOTALL)
# What differs from request to request anyway.
_VOLATILE = {"content-length", "idempotency-key", "x-stainless-idempotency-key", "host"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def provider() -> Iterator[Double]:
    with Double() as double:
        yield double


@pytest.fixture
def mem(data_dir: Path, request: pytest.FixtureRequest) -> Memori:
    """A memory of somebody who lives in Lisbon, and of whom nothing else is known."""
    mem = Memori(data_dir=data_dir, embedding="none", recall_deadline_ms=5000)
    mem.attribution(entity_id=request.node.name, process_id="surfaces")
    mem.capture([{"role": "user", "content": "I live in Lisbon."}])
    assert mem.augmentation.wait(30), mem.augmentation.failures()
    return mem


def finish(call: Coroutine[Any, Any, Any], asynchronous: bool) -> Any:
    """Runs a surface: over a synchronous client outside of any event loop, as its users do."""
    if asynchronous:
        return asyncio.run(call)
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a synchronous client was awaited")


def once(surface: Surface, asynchronous: bool, provider: Double, mem: Memori | None) -> tuple[Any, Any, Recorded]:
    """What a caller sees, what became of the messages, and what the provider was sent."""
    provider.clear()
    messages = surface.conversation()

    async def called() -> Any:
        client = client_for(surface, asynchronous, provider.url)
        if mem is not None:
            assert mem.llm.register(client) is mem
        try:
            return await surface.call(client, messages)
        finally:
            closing = client.close()
            if asynchronous:
                await closing
            assert client.is_closed()

    try:
        seen = dumped(finish(called(), asynchronous))
    except Missing as missing:
        pytest.skip(f"this line has no {missing}")
    (sent,) = provider.requests
    return seen, messages, sent


def headers(request: Recorded) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.headers if name.lower() not in _VOLATILE]


def without_block(value: Any) -> Any:
    """The request less the block, wherever it stands."""
    if isinstance(value, str):
        return _BLOCK.sub("", value)
    if isinstance(value, list):
        parts = [without_block(part) for part in value]
        return [
            part
            for part, before in zip(parts, value, strict=True)
            if part == before or not (isinstance(part, dict) and part.get("text") == "")
        ]
    if isinstance(value, dict):
        return {name: without_block(inner) for name, inner in value.items()}
    return value


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_captured_and_injected_and_nothing_else_changed(
    surface: Surface, asynchronous: bool, provider: Double, mem: Memori
) -> None:
    plain_seen, plain_messages, plain = once(surface, asynchronous, provider, None)
    seen, messages, sent = once(surface, asynchronous, provider, mem)

    # The caller
    assert seen == plain_seen
    assert messages == plain_messages == surface.conversation()

    # The provider
    assert headers(sent) == headers(plain)
    assert sent.path == plain.path
    assert sent.body != plain.body
    text = sent.body.decode()
    assert text.count("<memori_context>") == 1
    assert "Lisbon" in text
    before = plain.body.decode().rindex(QUESTION)
    assert text[:before] == plain.body.decode()[:before], "nothing before the last user message is touched"
    assert without_block(sent.json()) == plain.json() or flattened(without_block(sent.json())) == flattened(plain.json())

    # The memory
    assert mem.augmentation.wait(30), mem.augmentation.failures()
    said = [(message["role"], message["content"]) for message in exported(mem)]
    users = [text_of(content) for role, content in said if role == "user"]
    # Earlier turns belong to earlier calls.
    assert users == ["I live in Lisbon.", QUESTION]
    assert "memori_context" not in json.dumps(said)
    (answer,) = (content for role, content in said if role == "assistant")
    if surface.answer is None:
        assert "look_up" in json.dumps(answer)
        assert "Paris" in json.dumps(answer)
    else:
        assert text_of(answer) == surface.answer


def text_of(content: Any) -> Any:
    if isinstance(content, list) and len(content) == 1:
        return content[0].get("text")
    return content


def flattened(value: Any) -> Any:
    """With text parts of one text as that text: where the caller gave text, a part may have been made of it."""
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], dict) and set(value[0]) == {"type", "text"}:
            return value[0]["text"]
        return [flattened(part) for part in value]
    if isinstance(value, dict):
        return {name: flattened(inner) for name, inner in value.items()}
    return value


@pytest.fixture
def client(provider: Double) -> Iterator[openai.OpenAI]:
    provider.clear()
    with openai.OpenAI(base_url=provider.openai_url, api_key="sk-double") as client:
        yield client


def asked(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}], **options)


def captured(mem: Memori) -> list[str]:
    """The words that were captured beyond the first message."""
    assert mem.augmentation.wait(30), mem.augmentation.failures()
    return [text_of(message["content"]) for message in exported(mem)][1:]


def test_retries_are_one_event_with_one_block(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    mem.llm.register(client)
    soon = (("retry-after-ms", "1"),)
    provider.plan(Behaviour(status=500, headers=soon), Behaviour(status=429, headers=soon))
    assert asked(client).choices[0].message.content == ANSWER
    bodies = [request.body for request in provider.requests]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert sorted(captured(mem)) == [QUESTION, ANSWER]


def test_a_call_that_fails_for_good_is_not_remembered(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    mem.llm.register(client)
    provider.plan(Behaviour(status=400))
    with pytest.raises(openai.BadRequestError):
        asked(client)
    assert captured(mem) == []


def test_registering_twice_is_once(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    hooked = mem.llm.register(client).llm.register(client)
    transport = client._client
    mem.llm.register(client.with_options(timeout=5))
    assert hooked is mem
    assert client._client is transport
    asked(client)
    assert sorted(captured(mem)) == [QUESTION, ANSWER]
    assert provider.requests[-1].body.count(b"<memori_context>") == 1


def test_the_http_client_stays_what_it_was(provider: Double, mem: Memori) -> None:
    client = openai.OpenAI(base_url=provider.openai_url, api_key="sk-double")
    before = client._client
    mem.llm.register(client)
    after = client._client
    assert isinstance(after, type(before))
    assert type(after).__name__ == type(before).__name__
    assert after.cookies is before.cookies
    del before
    asked(client)
    client.close()
    assert client.is_closed()
    client.close()


def test_another_client_on_the_same_http_client_is_not_hooked(provider: Double, mem: Memori) -> None:
    provider.clear()
    first = openai.OpenAI(base_url=provider.openai_url, api_key="sk-double")
    shared = first._client
    second = openai.OpenAI(base_url=provider.openai_url, api_key="sk-double", http_client=shared)
    mem.llm.register(second)
    asked(first)
    assert b"memori_context" not in provider.requests[-1].body
    asked(second)
    assert b"memori_context" in provider.requests[-1].body
    del second
    gc.collect()
    asked(first)
    first.close()
    assert shared.is_closed


def test_a_client_that_is_let_go_of_closes_its_connections(provider: Double, mem: Memori) -> None:
    client = openai.OpenAI(base_url=provider.openai_url, api_key="sk-double")
    state = client._client.__dict__
    mem.llm.register(client)
    asked(client)
    del client
    gc.collect()
    assert state["_state"].name == "CLOSED"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("piece_bytes", [None, 1, 7])
def test_streams_are_read_through_any_coding_and_any_cut(
    coding: str, piece_bytes: int | None, client: openai.OpenAI, provider: Double, mem: Memori
) -> None:
    mem.llm.register(client)
    provider.plan(Behaviour(coding=coding, piece_bytes=piece_bytes, text="Grüße — 東京!"))
    chunks = list(asked(client, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Grüße — 東京!"
    assert sorted(captured(mem)) == sorted([QUESTION, "Grüße — 東京!"])


def test_a_stream_that_breaks_is_captured_as_cut(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    mem.llm.register(client)
    provider.plan(Behaviour(cut_after=3))
    with pytest.raises(Exception, match=r"(?i)peer|connection|incomplete"):
        list(asked(client, stream=True))
    found = captured(mem)
    assert QUESTION in found
    assert ANSWER not in found
    assert mem.stats()["cut"] >= 1


def test_a_stream_that_its_reader_leaves_is_captured_as_cut(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    mem.llm.register(client)
    before = mem.stats()["cut"]
    with asked(client, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    assert QUESTION in captured(mem)
    assert mem.stats()["cut"] == before + 1


def test_a_stream_that_nobody_reads_is_let_go(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    mem.llm.register(client)
    stream = asked(client, stream=True)
    stream.response.close()
    del stream
    assert mem.augmentation.wait(30)


def test_a_cancelled_call_is_cancelled(provider: Double, mem: Memori) -> None:
    provider.clear()

    async def called() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="sk-double") as client:
            mem.llm.register(client)
            provider.plan(Behaviour(delay_s=5))
            call = asyncio.ensure_future(
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}])
            )
            while not provider.requests:
                await asyncio.sleep(0.001)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(called())
    assert captured(mem) == []


def test_what_is_no_conversation_goes_by(client: openai.OpenAI, provider: Double, mem: Memori) -> None:
    mem.llm.register(client)
    client.embeddings.create(model="e", input="Where do I live?", encoding_format="float")
    client.models.list()
    client.files.create(file=b"Where do I live?", purpose="user_data")
    assert not any(b"memori_context" in request.body for request in provider.requests)
    assert captured(mem) == []


def test_other_event_loops_than_asyncio_s(provider: Double, mem: Memori) -> None:
    trio = pytest.importorskip("trio")
    provider.clear()

    async def called() -> str | None:
        client = openai.AsyncOpenAI(base_url=provider.openai_url, api_key="sk-double")
        mem.llm.register(client)
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}])
        await client.close()
        return answer.choices[0].message.content

    assert trio.run(called) == ANSWER
    assert b"Lisbon" in provider.requests[-1].body
    assert sorted(captured(mem)) == [QUESTION, ANSWER]
