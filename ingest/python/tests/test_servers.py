"""Web servers of several processes on one SQLite file: everybody whose request was answered is remembered, once, though SIGTERM ends them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from support import PATIENCE_S, free_port, http, known, until

WORKERS = 3
DATABASE = "sqlite:///app.db"

_APPLICATION = f"""
import json, os
from openai import AsyncOpenAI, OpenAI
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from memori import Memori
mem = Memori(conn=sessionmaker(bind=create_engine({DATABASE!r})), embedding="none")
mem.config.storage.build()
"""

_WSGI = f"""{_APPLICATION}
client = OpenAI()
mem.llm.register(client)
def app(environ, start_response):
    user = environ["PATH_INFO"].strip("/")
    with mem.scope(entity_id=user):
        client.chat.completions.create(model="m", messages=[{{"role": "user", "content": f"I live in {{user}}town."}}])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(os.getpid()).encode()]
"""

_ASGI = f"""{_APPLICATION}
from contextlib import asynccontextmanager
from fastapi import FastAPI
@asynccontextmanager
async def lifespan(app):
    yield
    mem.close()
app = FastAPI(lifespan=lifespan)
client = AsyncOpenAI()
mem.llm.register(client)
@app.get("/{{user}}")
async def say(user: str):
    async with mem.scope(entity_id=user):
        await client.chat.completions.create(model="m", messages=[{{"role": "user", "content": f"I live in {{user}}town."}}])
    return os.getpid()
"""


@contextmanager
def listening(command: list[str], source: str, work: Path, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the application, and its address."""
    (work / "served.py").write_text(source, encoding="utf-8")
    port = free_port()
    log = work / "server.log"
    command = [sys.executable, "-m", *[part.replace("PORT", str(port)) for part in command]]
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, cwd=work, env=env, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or answered(url, "first") is not None, f"the server answers ({log})")
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def answered(url: str, user: str) -> int | None:
    """The process that answered a user, if any did."""
    try:
        status, body = http("GET", f"{url}/{user}")
    except (OSError, HTTPException):
        return None
    return json.loads(body) if status == 200 else None


_GUNICORN = ["gunicorn", "served:app", "--bind", "127.0.0.1:PORT", "--workers", str(WORKERS)]


@pytest.mark.parametrize(
    ("command", "source"),
    [
        (_GUNICORN, _WSGI),
        ([*_GUNICORN, "--preload"], _WSGI),
        ([*_GUNICORN, "--preload", "--threads", "4"], _WSGI),
        (["uvicorn", "served:app", "--host", "127.0.0.1", "--port", "PORT", "--workers", str(WORKERS)], _ASGI),
    ],
    ids=["gunicorn", "gunicorn --preload", "gunicorn --preload --threads", "uvicorn --workers"],
)
def test_everybody_is_remembered_once(command: list[str], source: str, work: Path, env: dict[str, str]) -> None:
    served: dict[str, int] = {}
    ending = threading.Event()

    def ask(first: int) -> None:
        user = first
        while True:
            process = answered(url, f"user{user}")
            if process is None:
                # Only the end of the server may refuse somebody.
                assert ending.is_set()
                return
            served[f"user{user}"] = process
            user += 8

    with listening(command, source, work, env) as (server, url), ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        try:
            until(lambda: len(served) >= 30 and len(set(served.copy().values())) == WORKERS, "every process answers")
            # In the middle of requests.
            ending.set()
            server.terminate()
            code = server.wait(PATIENCE_S)
        finally:
            ending.set()
            server.kill()
        for one in asking:
            one.result()
    log = (work / "server.log").read_text(encoding="utf-8")
    assert code == 0, log
    assert "Traceback" not in log, log

    found = known(work, env, dict.fromkeys(served, 1), DATABASE)
    for user in served:
        assert found[user]["user"] == [f"I live in {user}town."]
        assert len([fact for fact in found[user]["facts"] if f"{user}town" in fact]) == 1, found[user]["facts"]
