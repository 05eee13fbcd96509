"""The document's code runs as it is written, to its end, and what its prose says comes about.

Nothing is changed but where the provider and the user's home are; where a block names a platform's key, a platform runs, and
`MEMORI_API_URL` says where.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from document import TEXT, Block, blocks
from double import Double
from support import http, known, platform, run, served

BLOCKS = {block.line: block for block in blocks()}
CLOUD, BYODB, ANTHROPIC, WEB, WEB_BYODB, WEB_DEPENDS, STREAM, WEB_STREAM = 12, 29, 50, 67, 87, 118, 149, 169
GATHER, RECALL, SKETCH, MIXED, WORKERS, ERRORS, TUNING, PYTEST = 195, 222, 250, 260, 291, 312, 342, 350


def source(line: int) -> str:
    return BLOCKS[line].source


@pytest.fixture
def memory_platform(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What leads a program to a platform that asks for no key, as the document's placeholder is none."""
    folder = tmp_path / "platform-home"
    folder.mkdir()
    with platform(folder) as (url, _):
        yield {"MEMORI_API_URL": url}


def test_every_block_is_found_and_nothing_but_indentation_is_added() -> None:
    lines = TEXT.read_text(encoding="utf-8").splitlines()
    assert sorted(BLOCKS) == [CLOUD, BYODB, ANTHROPIC, WEB, WEB_BYODB, WEB_DEPENDS, STREAM, WEB_STREAM,
                              GATHER, RECALL, SKETCH, MIXED, WORKERS, ERRORS, TUNING, PYTEST]  # fmt: skip
    covered: set[int] = set()
    for line, block in BLOCKS.items():
        written = block.source.splitlines()
        assert [text.strip() for text in written] == lines[line - 1 : line - 1 + len(written)]
        covered.update(range(line, line + len(written)))
    # What is left over is prose: no line of it is a statement of code that a block has lost.
    left = [text for number, text in enumerate(lines, 1) if number not in covered]
    assert not [
        text for text in left if text.startswith(("import ", "from ", "await ", "async def", "def ", "@", "return ", "mem."))
    ]


def test_what_follows_a_loop_is_not_in_it() -> None:
    tree = ast.parse(source(RECALL))
    batch = next(node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "batch_recall")
    assert [type(node).__name__ for node in batch.body] == ["Assign", "For", "Assign", "Return"]


@pytest.mark.parametrize("line", [CLOUD, BYODB, ANTHROPIC, STREAM, MIXED])
def test_a_conversation_is_answered_and_remembered(
    line: int, work: Path, env: dict[str, str], memory_platform: dict[str, str], double: Double
) -> None:
    said = {
        CLOUD: {"user_123": ["I prefer async Python."]},
        BYODB: {"user_123": ["I prefer async Python."]},
        ANTHROPIC: {"user_123": ["Hello, Claude!"]},
        STREAM: {"user_123": ["Tell me a story"]},
        MIXED: {"user_123": ["Async message"], "user_456": ["Sync message"]},
    }[line]
    cloud = line == CLOUD
    program = run(source(line), work, {**env, **memory_platform} if cloud else env)
    answers = [f"You said: {text}" for texts in said.values() for text in texts]
    assert program.stdout.splitlines() == answers
    assert len(double.requests) == len(answers)
    where = {**env, **memory_platform, "MEMORI_API_KEY": "your-api-key"} if cloud else env
    database = "sqlite:///memori.db" if line == BYODB else ""
    found = known(work, where, {**{entity: 1 for entity in said}, "nobody": 0}, database)
    for entity, texts in said.items():
        assert found[entity]["user"] == texts
        assert found[entity]["assistant"] == [f"You said: {text}" for text in texts]
    assert found["nobody"] == {"facts": [], "user": [], "assistant": []}
    if line in (CLOUD, BYODB):
        assert any("async python" in fact.lower() for fact in found["user_123"]["facts"])
    if line == BYODB:
        assert (work / "memori.memori.db").exists()


def test_what_one_run_learned_is_in_the_next_one_s_prompt(work: Path, env: dict[str, str], double: Double) -> None:
    for _ in range(2):
        run(source(BYODB), work, env)
    first, second = (body["messages"][-1]["content"] for body in double.bodies())
    assert first == "I prefer async Python."
    assert second.startswith("I prefer async Python.")
    assert "<memori_context>" in second
    found = known(work, env, {"user_123": 2}, "sqlite:///memori.db")
    assert found["user_123"]["user"] == ["I prefer async Python."] * 2, "what was injected is not learned"


def test_a_platform_with_keys_takes_the_key(work: Path, env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "keyed"
    folder.mkdir()
    with platform(folder, keyed=True) as (url, key):
        where = {**env, "MEMORI_API_URL": url}
        program = run(source(CLOUD).replace("your-api-key", key), work, where)
        assert program.stdout == "You said: I prefer async Python.\n"
        found = known(work, {**where, "MEMORI_API_KEY": key}, {"user_123": 1})
        assert found["user_123"]["user"] == ["I prefer async Python."]
        refused = run(source(CLOUD), work, where)
        assert refused.stdout == "You said: I prefer async Python.\n", "a wrong key costs the memory, not the answer"


@pytest.mark.parametrize("line", [WEB, WEB_BYODB])
def test_the_web_application_answers_many_users_at_once(
    line: int, work: Path, env: dict[str, str], memory_platform: dict[str, str]
) -> None:
    where = {**env, **memory_platform} if line == WEB else env
    users = [f"user-{number}" for number in range(20)]
    with served(source(line), work, where) as url, ThreadPoolExecutor(20) as pool:
        ask = lambda user: http("POST", f"{url}/chat/{user}", {"message": f"My name is {user}."})
        answers = list(pool.map(ask, users))
    for user, (status, body) in zip(users, answers, strict=True):
        assert (status, json.loads(body)) == (200, {"response": f"You said: My name is {user}."})
    if line == WEB:
        where = {**where, "MEMORI_API_KEY": "your-api-key"}
    found = known(work, where, dict.fromkeys(users, 1), "sqlite:///memori.db" if line == WEB_BYODB else "")
    for user in users:
        assert found[user]["user"] == [f"My name is {user}."]


def test_the_web_application_with_dependencies_knows_its_user(work: Path, env: dict[str, str]) -> None:
    with served(source(WEB_DEPENDS), work, env) as url:
        refused, _ = http("POST", f"{url}/chat", {"message": "hi"}, {"Authorization": "Bearer other"})
        status, body = http("POST", f"{url}/chat", {"message": "I live in Bern."}, {"Authorization": "Bearer valid_token"})
    assert refused == 401
    assert (status, json.loads(body)) == (200, {"response": "You said: I live in Bern."})
    found = known(work, env, {"user_123": 1})
    assert found["user_123"]["user"] == ["I live in Bern."]
    assert any("Bern" in fact for fact in found["user_123"]["facts"])


def test_the_streaming_endpoint_streams(work: Path, env: dict[str, str]) -> None:
    with served(source(WEB_STREAM), work, env) as url:
        status, text = http("GET", f"{url}/stream/ann?message={quote('I play the violin.')}")
    assert (status, text) == (200, "You said: I play the violin.")
    found = known(work, env, {"ann": 1})
    assert found["ann"] == {
        "facts": found["ann"]["facts"],
        "user": ["I play the violin."],
        "assistant": ["You said: I play the violin."],
    }
    assert any("violin" in fact for fact in found["ann"]["facts"])


def test_users_at_once_stay_apart(work: Path, env: dict[str, str]) -> None:
    program = run(source(GATHER), work, env)
    said = {
        "user_alice": "What's my favorite color?",
        "user_bob": "Tell me about my preferences",
        "user_charlie": "What do I like?",
    }
    assert program.stdout.splitlines() == [f"{user}: You said: {text}" for user, text in said.items()]
    found = known(work, env, dict.fromkeys(said, 1))
    for user, text in said.items():
        assert found[user]["user"] == [text]


def test_a_hundred_workers(work: Path, env: dict[str, str], double: Double) -> None:
    program = run(source(WORKERS), work, env)
    assert program.stdout == "Processed 100 users\n"
    assert len(double.requests) == 100
    users = [f"user_{number}" for number in range(100)]
    found = known(work, env, dict.fromkeys(users, 1))
    assert all(found[user]["user"] == ["Hello"] for user in users)


_TELL = """
from memori import Memori
mem = Memori()
for user, text in {"user_alice": "I prefer tabs when coding.", "user_bob": "I love coding in Rust."}.items():
    with mem.scope(entity_id=user):
        mem.capture([{"role": "user", "content": text}])
assert mem.augmentation.wait()
"""


def test_batched_recall_prints_what_is_known(work: Path, env: dict[str, str]) -> None:
    run(_TELL, work, env)
    program = run(source(RECALL), work, env)
    users: dict[str, list[str]] = {}
    for line in filter(None, program.stdout.splitlines()):
        if line.endswith(":"):
            users[line[:-1]] = []
        else:
            users[list(users)[-1]].append(line)
    assert list(users) == ["user_alice", "user_bob", "user_charlie"]
    assert any("tabs" in fact for fact in users["user_alice"])
    assert any("Rust" in fact for fact in users["user_bob"])
    assert not any("Rust" in fact for fact in users["user_alice"])
    assert users["user_charlie"] == []


def test_errors_are_handled(work: Path, env: dict[str, str], double: Double) -> None:
    assert run(source(ERRORS), work, env).stdout == "You said: Hello\n"


def test_the_knobs_turn(work: Path, env: dict[str, str]) -> None:
    shown = "\nimport json\nprint(json.dumps([mem.augmentation.max_workers, mem.augmentation.db_writer_batch_size]))\n"
    program = run(source(TUNING) + shown, work, env)
    assert json.loads(program.stdout) == [100, 200]
    assert run(source(TUNING), work, env).stdout == ""


def test_the_sketch_of_the_inside_is_python(work: Path, env: dict[str, str]) -> None:
    assert run(source(SKETCH), work, env).stdout == ""


def test_the_test_runs_under_pytest(work: Path, env: dict[str, str]) -> None:
    (work / "test_document.py").write_text(source(PYTEST), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_document.py"]
    program = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert program.returncode == 0, program.stdout + program.stderr
    assert "1 passed" in program.stdout
    assert known(work, env, {"test_user": 1})["test_user"]["user"] == ["Test message"]


def test_titles_are_the_document_s() -> None:
    assert isinstance(BLOCKS[BYODB], Block)
    assert BLOCKS[BYODB].title == "With BYODB (SQLAlchemy)"
