"""What several tests need: programs in processes of their own, servers, and what a fresh process recalls."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")

# Far beyond what anything here takes; a test that waits so long has failed.
PATIENCE_S = 60.0

_OURS = re.compile(r"^(MEMORI|OPENAI|ANTHROPIC|AZURE)_", re.IGNORECASE)


def environment(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: a home of its own, and nothing of ours or the providers' but what is given."""
    kept = {name: value for name, value in os.environ.items() if not _OURS.match(name) and name != "XDG_DATA_HOME"}
    # Converted weights are this machine's, not a home's: a test does not convert them again.
    kept.setdefault("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", **given}


def start(source: str, cwd: Path, env: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Runs a program from a file, as a user would."""
    handle, name = tempfile.mkstemp(suffix=".py", prefix="program_", dir=cwd)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(source)
    command = [sys.executable, name, *arguments]
    return subprocess.Popen(command, cwd=cwd, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(source: str, cwd: Path, env: Mapping[str, str], *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """`start`, to its end."""
    process = start(source, cwd, env, *arguments)
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the program does not end; it said:\n{out}\n{err}") from None
    if ok:
        assert process.returncode == 0, f"the program ended with {process.returncode}:\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def until(found: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true thing that `found` gives."""
    deadline = time.monotonic() + patience_s
    while not (value := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience_s} s; the last was {value!r}")
        time.sleep(0.05)
    return value


_KNOWN = """
import faulthandler, json, sys, time
# Where it stands, should it not end.
faulthandler.dump_traceback_later(50)
from urllib.parse import quote
from memori import Memori
conn = None
if sys.argv[2]:
    from sqlalchemy import create_engine
    conn = create_engine(sys.argv[2])
wanted = json.loads(sys.argv[1])
def messages_of(entity):
    status, lines = ask("GET", f"/v1/entities/{quote(entity, safe='')}/export", None, 10_000)
    assert status == 200, lines
    return [line for line in map(json.loads, lines.splitlines()) if line["type"] == "message"]
def told(messages, role):
    return [message["content"] for message in messages if message["role"] == role]
deadline = time.monotonic() + 30
with Memori(conn=conn) as mem:
    mem.config.storage.build()
    ask = mem.engine().native.request_json
    while True:
        said = {entity: messages_of(entity) for entity in wanted}
        if time.monotonic() > deadline or all(len(told(said[entity], "user")) >= count for entity, count in wanted.items()):
            break
        time.sleep(0.05)
    events = list({message["event_id"] for messages in said.values() for message in messages})
    for first in range(0, len(events), 1000):
        body = {"event_ids": events[first : first + 1000], "timeout_ms": 30_000}
        status, answer = ask("POST", "/v1/events/wait", json.dumps(body).encode(), 40_000)
        assert status == 200 and json.loads(answer)["complete"], answer
    known = {}
    for entity in wanted:
        facts = mem.recall("where do I live, work, what do I like, prefer, play, own?", limit=1000, entity_id=entity)
        known[entity] = {
            "facts": [fact.content for fact in facts],
            "user": told(said[entity], "user"),
            "assistant": told(said[entity], "assistant"),
        }
print(json.dumps(known))
"""


def known(cwd: Path, env: Mapping[str, str], wanted: Mapping[str, int], database: str = "") -> dict[str, dict[str, list[str]]]:
    """What a new process finds about each entity, messages in the order in which they were said, once it finds so many messages of theirs (or 30 s are over)."""
    found: dict[str, dict[str, list[str]]] = json.loads(run(_KNOWN, cwd, env, json.dumps(wanted), database).stdout)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def http(method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def served(source: str, cwd: Path, env: Mapping[str, str]) -> Iterator[str]:
    """A web application of one block, served by uvicorn as the document's reader would; ended as Ctrl-C does."""
    (cwd / "served.py").write_text(source, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "served:app", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=cwd, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: _listens(port) or process.poll() is not None, "uvicorn listens")
        assert process.poll() is None, process.communicate()[0]
        yield f"http://127.0.0.1:{port}"
        process.send_signal(2)
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in out, out
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def platform_binary() -> Path:
    """The program `memori` of this repository: `MEMORI_BINARY`, else what cargo built last."""
    given = os.environ.get("MEMORI_BINARY")
    if given:
        return Path(given)
    root = Path(__file__).resolve().parents[3]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    built = [path for path in (target / "release" / "memori", target / "debug" / "memori") if path.exists()]
    if not built:
        raise RuntimeError("there is no program `memori`: run `cargo build -p memori-cli`, or set MEMORI_BINARY")
    return max(built, key=lambda path: path.stat().st_mtime)


@contextmanager
def platform(folder: Path, *, keyed: bool = False, port: int = 0) -> Iterator[tuple[str, str]]:
    """A platform: `memori up` on a folder of its own. Gives its address and an API key (any, where it asks for none)."""
    env = environment(folder, {})
    key = "your-api-key"
    if keyed:
        command = [str(platform_binary()), "key", "hash", "--tenant", "acme", "--rights", "events,recall,erase"]
        hashed = subprocess.run(command, input="", capture_output=True, text=True, check=True, env=env)
        (folder / "keys.toml").write_text(hashed.stdout, encoding="utf-8")
        found = re.search(r"\S{24,}", hashed.stderr)
        assert found is not None, hashed.stderr
        key = found[0]
        env["MEMORI__AUTH__KEYS_FILE"] = str(folder / "keys.toml")
    command = [str(platform_binary()), "up", "--listen", f"127.0.0.1:{port}", "--data-dir", str(folder / "platform")]
    with open(folder / "platform.log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            log_text = folder / "platform.log"
            address = until(
                lambda: re.search(r"listening api=(\S+)", log_text.read_text(encoding="utf-8")), "the platform listens"
            )[1]
            yield f"http://{address}", key
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def exported(mem: Any, entity_id: str | None = None) -> list[dict[str, Any]]:
    """All messages that a memory holds of an entity, in the order in which they were said."""
    entity = quote(entity_id or mem.current_attribution().entity_id, safe="")
    status, body = mem.engine().native.request_json("GET", f"/v1/entities/{entity}/export", None, 10_000)
    assert status == 200, body
    lines = [json.loads(line) for line in body.splitlines()]
    return [line for line in lines if line["type"] == "message"]
