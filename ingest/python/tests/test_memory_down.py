"""Memory down in every way: the call to the model is what it would be without us, in its bytes and in its time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from memori import Memori, MemoriError

from double import Behaviour, Double
from support import free_port, run, until
from surfaces import QUESTION

DEADLINE_MS = 150
# What a call may take beyond the deadline: all of ours, the double and the machine, which is shared.
SLACK_S = 0.6

_MESSAGES: Any = [{"role": "user", "content": QUESTION}]
_PLATFORM: dict[str, Any] = {"api_key": "your-api-key"}


@contextmanager
def refusing(_: Path) -> Iterator[dict[str, Any]]:
    yield {**_PLATFORM, "api_url": f"http://127.0.0.1:{free_port()}"}


@contextmanager
def silent(_: Path) -> Iterator[dict[str, Any]]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield {**_PLATFORM, "api_url": f"http://127.0.0.1:{listener.getsockname()[1]}"}


def answering(behaviour: Behaviour) -> Callable[[Path], Any]:
    @contextmanager
    def condition(_: Path) -> Iterator[dict[str, Any]]:
        with Double() as platform:
            platform.standing = behaviour
            yield {**_PLATFORM, "api_url": platform.url}

    return condition


@contextmanager
def unresolvable(_: Path) -> Iterator[dict[str, Any]]:
    yield {**_PLATFORM, "api_url": "http://memory.invalid"}


@contextmanager
def no_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The folder of the database is a file."""
    (folder / "file").write_text("", encoding="utf-8")
    yield {"conn": f"sqlite:///{folder}/file/app.db"}


@contextmanager
def garbage_file(folder: Path) -> Iterator[dict[str, Any]]:
    (folder / "app.memori.db").write_bytes(b"this is no database " * 4096)
    yield {"conn": f"sqlite:///{folder}/app.db"}


@contextmanager
def folder_in_the_way(folder: Path) -> Iterator[dict[str, Any]]:
    (folder / "app.memori.db").mkdir()
    yield {"conn": f"sqlite:///{folder}/app.db"}


@contextmanager
def no_postgres(_: Path) -> Iterator[dict[str, Any]]:
    yield {"conn": f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/app"}


@contextmanager
def silent_postgres(_: Path) -> Iterator[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield {"conn": f"postgresql+psycopg://me:secret@127.0.0.1:{listener.getsockname()[1]}/app"}


_CONDITIONS = {
    "the platform refuses connections": refusing,
    "the platform hangs": silent,
    "the platform answers 500": answering(Behaviour(status=500)),
    "the platform answers 429": answering(Behaviour(status=429, headers=(("Retry-After", "1"),))),
    "the platform answers 401": answering(Behaviour(status=401)),
    "the platform answers garbage": answering(Behaviour(body=b"\x00\xff<html>no</html>")),
    "the platform answers the wrong JSON": answering(Behaviour(body=b'{"facts": 7, "results": {}}')),
    "the platform breaks off": answering(Behaviour(body=b'{"facts": []}', cut_after=5)),
    "the platform has no address": unresolvable,
    "the database's folder is none": no_folder,
    "the database is garbage": garbage_file,
    "the database is a folder": folder_in_the_way,
    "Postgres is down": no_postgres,
    "Postgres hangs": silent_postgres,
}


class _Engine:
    """What stands for a SQLAlchemy engine, without the driver that one would load."""

    def __init__(self, url: str) -> None:
        from sqlalchemy.engine import make_url

        self.url = make_url(url)


@pytest.fixture(params=list(_CONDITIONS))
def down(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Memori]]:
    """Makes a `Memori` whose memory is down."""
    with ExitStack() as stack:
        given = dict(stack.enter_context(_CONDITIONS[request.param](tmp_path)))
        if "conn" in given:
            given["conn"] = _Engine(given["conn"])
        given.update(data_dir=tmp_path / "data", recall_deadline_ms=DEADLINE_MS, unreachable_after_ms=500, exit_deadline_ms=500)
        yield lambda: Memori(embedding="none", **given)


def _raw(client: Any, stream: bool) -> tuple[bytes, float]:
    began = time.monotonic()
    if stream:
        with client.chat.completions.with_streaming_response.create(model="m", messages=_MESSAGES, stream=True) as response:
            body = b"".join(response.iter_bytes())
    else:
        body = client.chat.completions.with_raw_response.create(model="m", messages=_MESSAGES).content
    return body, time.monotonic() - began


def test_the_answer_is_what_it_would_be(down: Callable[[], Memori], double: Double) -> None:
    def client() -> openai.OpenAI:
        return openai.OpenAI(base_url=double.openai_url, api_key="sk-double", max_retries=0)

    plain = client()
    mem = down().attribution(entity_id="ann", process_id="bot")
    registered = client()
    mem.llm.register(registered)
    for stream in (False, True):
        expected, _ = _raw(plain, stream)
        for _ in range(3):
            body, took = _raw(registered, stream)
            assert body == expected
            assert took < DEADLINE_MS / 1000 + SLACK_S
        # It may be what the platform is played by, too.
        sent = [request.body for request in double.requests if request.path.endswith("/chat/completions")]
        assert len(set(sent[-4:])) == 1, "nothing was put into the request"

    async def asynchronous() -> None:
        async with openai.AsyncOpenAI(base_url=double.openai_url, api_key="sk-double", max_retries=0) as asking:
            mem.llm.register(asking)
            began = time.monotonic()
            answers = await asyncio.gather(*[asking.chat.completions.create(model="m", messages=_MESSAGES) for _ in range(20)])
            assert time.monotonic() - began < DEADLINE_MS / 1000 + 2 * SLACK_S
            assert {answer.choices[0].message.content for answer in answers} == {f"You said: {QUESTION}"}

    asyncio.run(asynchronous())
    plain.close()
    registered.close()

    began = time.monotonic()
    assert mem.augmentation.wait() is False
    assert time.monotonic() - began < 10, "waiting does not hang"
    with pytest.raises(MemoriError):
        mem.recall("where", timeout=1.0)
    with pytest.raises(MemoriError):
        mem.config.storage.build(timeout=1.0)
    assert mem.stats()["captured"] >= 26
    began = time.monotonic()
    mem.close()
    assert time.monotonic() - began < 10


def test_a_used_up_quota_is_raised_where_it_is_asked_for(tmp_path: Path, double: Double) -> None:
    """As the document's code catches it; the same code without the setting goes on without memory."""
    problem = (
        b'{"type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": "the quota of this month is used up"}'
    )
    with Double() as platform:
        platform.standing = Behaviour(status=429, body=problem, headers=(("Retry-After", "30"),))
        from document import blocks
        from support import environment

        source = next(block.source for block in blocks() if "QuotaExceededError" in block.source)
        again = source.replace(
            "    print(result)\n",
            "    print(result)\n    await asyncio.sleep(2)\n    print(await safe_chat('user_123', 'Hello'))\n",
        )
        env = environment(
            tmp_path,
            {**double.environment, "MEMORI_API_KEY": "k", "MEMORI_API_URL": platform.url, "MEMORI_EXIT_DEADLINE_MS": "500"},
        )
        passing = run(again, tmp_path, env)
        assert passing.stdout.splitlines() == ["You said: Hello", "You said: Hello"]
        raising = run(again, tmp_path, {**env, "MEMORI_ON_QUOTA": "raise"})
        assert raising.stdout.splitlines()[-1] == "Quota exceeded — please try again later"


_FULL = """
import resource, time
from openai import OpenAI
from memori import Memori
mem = Memori(embedding="none", unreachable_after_ms=500, exit_deadline_ms=500)
mem.config.storage.build()
mem.attribution(entity_id="ann")
mem.capture([{"role": "user", "content": "I live in Lisbon."}], durable=True)
assert mem.augmentation.wait(30)
client = OpenAI()
expected = client.chat.completions.with_raw_response.create(model="m", messages=[{"role": "user", "content": "hi"}]).content
# No file may grow any more: what a full disk does to a writer.
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
mem.llm.register(client)
for _ in range(5):
    body = client.chat.completions.with_raw_response.create(model="m", messages=[{"role": "user", "content": "hi"}]).content
    assert body == expected
print(mem.augmentation.wait(), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
# Memory is tried again in the background.
deadline = time.monotonic() + 30
while not (applied := mem.augmentation.wait(30)) and time.monotonic() < deadline:
    time.sleep(0.1)
print(applied, flush=True)
"""


def test_a_full_disk_costs_nothing_but_memory(work: Path, env: dict[str, str]) -> None:
    said = run(_FULL, work, env).stdout.splitlines()
    assert said == ["False", "True"]


_NOT_DURABLE = """
import resource, sys
from memori import Memori
mem = Memori(embedding="none", unreachable_after_ms=300, exit_deadline_ms=300)
mem.config.storage.build()
mem.attribution(entity_id="ann")
mem.capture([{"role": "user", "content": "I live in Lisbon."}], durable=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
mem.capture([{"role": "user", "content": "I live in Porto."}])
if sys.argv[1] == "close":
    mem.close()
    print(mem.stats()["python"], flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_closing_that_made_nothing_durable_says_so(work: Path, env: dict[str, str]) -> None:
    closed = run(_NOT_DURABLE, work, env, "close")
    assert closed.stdout == "{'not_durable': 1}\n"
    assert "closing: what was captured last is not durable after 300 ms" in closed.stderr


def test_an_end_that_made_nothing_durable_says_so(work: Path, env: dict[str, str]) -> None:
    ended = run(_NOT_DURABLE, work, env, "end")
    assert "the process ends: what was captured last is not durable after 300 ms" in ended.stderr


def test_what_the_core_notices_is_logged_by_calls_alone(
    tmp_path: Path, double: Double, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits, recalls or asks for counts."""
    with answering(Behaviour(status=401))(tmp_path) as given:
        mem = Memori(embedding="none", data_dir=tmp_path, unreachable_after_ms=200, exit_deadline_ms=200, **given)
        mem.attribution(entity_id="ann")
        with openai.OpenAI(base_url=double.openai_url, api_key="sk-double") as client:
            mem.llm.register(client)
            until(lambda: _raw(client, stream=False) and "does not know the API key" in caplog.text, "the notice is logged")
        mem.close()


_ENGINES = """
import resource, time
from memori import Memori
held = [Memori(data_dir=f"memory-{number}", embedding="none", exit_deadline_ms=1500).attribution(entity_id="ann") for number in range(6)]
for mem in held:
    mem.config.storage.build()
# No engine can make anything durable any more: each takes all the time that it has.
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
for mem in held:
    mem.capture([{"role": "user", "content": "I live in Lisbon."}])
print(time.time(), flush=True)
"""


def test_many_engines_end_at_the_same_time(work: Path, env: dict[str, str]) -> None:
    began = float(run(_ENGINES, work, env).stdout)
    assert time.time() - began < 5, "one deadline, not six"


_GONE = """
import shutil
from openai import OpenAI
from sqlalchemy import create_engine
from memori import Memori
mem = Memori(conn=create_engine("sqlite:///data/app.db"), embedding="none", unreachable_after_ms=500, exit_deadline_ms=500)
mem.config.storage.build()
mem.attribution(entity_id="ann")
client = OpenAI()
mem.llm.register(client)
ask = lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}]).choices[0].message.content
print(ask(), mem.augmentation.wait(30), flush=True)
shutil.rmtree("data")
for _ in range(3):
    print(ask(), flush=True)
"""


def test_a_database_that_vanishes_costs_nothing_but_memory(work: Path, env: dict[str, str]) -> None:
    (work / "data").mkdir()
    assert run(_GONE, work, env).stdout.splitlines() == ["You said: hi True", *["You said: hi"] * 3]


_NO_MODEL = """
from openai import OpenAI
from memori import Memori
mem = Memori(embedding={"kind": "builtin", "model_dir": "/nonexistent/models", "weights_dir": "/nonexistent/weights"})
mem.config.storage.build()
mem.attribution(entity_id="ann")
client = OpenAI()
mem.llm.register(client)
client.chat.completions.create(model="m", messages=[{"role": "user", "content": "I live in Lisbon."}])
assert mem.augmentation.wait(30), mem.augmentation.failures()
print(mem.recall("Where do I live?")[0].content)
"""


def test_without_a_model_memory_goes_by_words(work: Path, env: dict[str, str]) -> None:
    assert "Lisbon" in run(_NO_MODEL, work, env).stdout


def test_a_core_that_fails_everywhere_is_not_noticed(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call into the core raises."""
    mem = Memori(data_dir=tmp_path, embedding="none").attribution(entity_id="ann")
    plain = openai.OpenAI(base_url=double.openai_url, api_key="sk-double")
    registered = openai.OpenAI(base_url=double.openai_url, api_key="sk-double")
    mem.llm.register(registered)

    class Broken:
        event_id = "x"

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"{name} is broken")

    class Breaking:
        def __init__(self, begins: bool) -> None:
            self.begins = begins

        def begin(self, *_: Any) -> Any:
            if not self.begins:
                raise RuntimeError("begin is broken")
            return Broken()

    for begins in (False, True):
        monkeypatch.setattr(Memori, "member", lambda _, begins=begins: Breaking(begins))
        for stream in (False, True):
            assert _raw(registered, stream)[0] == _raw(plain, stream)[0]
    monkeypatch.undo()
    python = mem.stats()["python"]
    assert python["begin_failed"] >= 2
    assert python["inject_failed"] >= 2
    assert python["answer_failed"] >= 1
    assert python["feed_failed"] >= 1
    mem.close()
