"""However a process ends: what was confirmed is there at the next start, and is processed; a proper end confirms what is queued."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from double import Double
from support import PATIENCE_S, free_port, known, platform, run, start, until

_BEGIN = """
import os, sys, signal, threading
from openai import OpenAI
from memori import Memori
# As from a terminal, also where the tests run under nohup or in the background.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
mem = Memori(embedding="none")
client = OpenAI()
mem.llm.register(client)
def say(entity, text):
    with mem.scope(entity_id=entity):
        return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
def confirm(entity, text):
    with mem.scope(entity_id=entity):
        mem.capture([{"role": "user", "content": text}], durable=True, timeout=30)
    print(text, flush=True)
"""

_ENDS = {
    "at the end": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "exception": ("raise RuntimeError('unhandled')", 1),
    "interrupt": ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
    "thread": ("threading.Thread(target=lambda: say('ann', 'From a thread.')).start()", 0),
}


@pytest.mark.parametrize("end", _ENDS)
def test_a_process_that_ends_without_waiting_loses_nothing(end: str, work: Path, env: dict[str, str]) -> None:
    last, code = _ENDS[end]
    program = run(
        f"{_BEGIN}\nfor number in range(30):\n    say('ann', f'I own book {{number}}.')\n{last}\n", work, env, ok=False
    )
    assert program.returncode == code, program.stderr
    expected = [f"I own book {number}." for number in range(30)] + (["From a thread."] if end == "thread" else [])
    found = known(work, env, {"ann": len(expected)})
    assert sorted(found["ann"]["user"]) == sorted(expected)


def test_ending_at_once_is_no_loss_either(work: Path, env: dict[str, str]) -> None:
    """Not even a started engine lies between the call and the end."""
    run(f"{_BEGIN}\nsay('ann', 'I live in Lisbon.')\n", work, env)
    found = known(work, env, {"ann": 1})
    assert found["ann"]["user"] == ["I live in Lisbon."]
    assert any("Lisbon" in fact for fact in found["ann"]["facts"])


def test_os_exit_keeps_what_was_confirmed(work: Path, env: dict[str, str]) -> None:
    waited = run(
        f"{_BEGIN}\nsay('ann', 'I live in Lisbon.')\nprint(mem.augmentation.wait(30), flush=True)\nos._exit(7)",
        work,
        env,
        ok=False,
    )
    assert (waited.returncode, waited.stdout) == (7, "True\n")
    run(f"{_BEGIN}\nconfirm('ann', 'I work in Porto.')\nos._exit(0)", work, env)
    found = known(work, env, {"ann": 2})
    assert found["ann"]["user"] == ["I live in Lisbon.", "I work in Porto."]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_in_the_middle_keeps_what_was_confirmed(number: signal.Signals, work: Path, env: dict[str, str]) -> None:
    many = f"{_BEGIN}\nfor number in range(100_000):\n    confirm('ann', f'I own book {{number}}.')\n"
    process = start(many, work, env)
    assert process.stdout is not None
    confirmed = [process.stdout.readline() for _ in range(40)]
    process.send_signal(number)
    rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -number
    told = [line for line in "".join([*confirmed, rest]).splitlines() if line.endswith(".")]
    assert len(told) >= 40
    found = known(work, env, {"ann": len(told)})
    assert set(told) <= set(found["ann"]["user"])
    assert len(found["ann"]["user"]) == len(set(found["ann"]["user"])), "nothing twice"


def test_a_process_that_catches_sigterm_ends_properly(work: Path, env: dict[str, str]) -> None:
    program = f"""{_BEGIN}
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for number in range(20):
    say('ann', f'I own book {{number}}.')
print("said", flush=True)
signal.pause()
"""
    process = start(program, work, env)
    assert process.stdout is not None
    assert process.stdout.readline() == "said\n"
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert len(known(work, env, {"ann": 20})["ann"]["user"]) == 20


# Several processes


def test_a_fork_has_a_memory_of_its_own(work: Path, env: dict[str, str]) -> None:
    """The client is registered before the fork and goes on in both. It keeps no connection: one that is open
    as the process forks is one socket that two processes write their requests to, which no HTTP client endures."""
    program = f"""{_BEGIN}
client = OpenAI(default_headers={{"Connection": "close"}})
mem.llm.register(client)
say('ann', 'Before.')
child = os.fork()
who = 'child' if child == 0 else 'parent'
for number in range(10):
    say(who, f'{{who}} {{number}}')
print(who, mem.augmentation.wait(30), flush=True)
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    out = run(program, work, env).stdout.splitlines()
    assert sorted(out) == ["child True", "parent True"]
    found = known(work, env, {"ann": 1, "child": 10, "parent": 10})
    assert found["ann"]["user"] == ["Before."]
    for who in ("child", "parent"):
        assert found[who]["user"] == [f"{who} {number}" for number in range(10)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_lose_nothing(method: str, work: Path, env: dict[str, str]) -> None:
    program = f"""
import multiprocessing
def work(number):
    from memori import Memori
    with Memori(embedding="none").scope(entity_id=f"child-{{number}}"):
        pass
    mem = Memori(embedding="none").attribution(entity_id=f"child-{{number}}")
    for turn in range(5):
        mem.capture([{{"role": "user", "content": f"turn {{turn}}"}}])
if __name__ == "__main__":
    from memori import Memori
    mem = Memori(embedding="none").attribution(entity_id="parent")
    mem.capture([{{"role": "user", "content": "I am the parent."}}])
    context = multiprocessing.get_context({method!r})
    children = [context.Process(target=work, args=(number,)) for number in range(3)]
    for child in children: child.start()
    for child in children: child.join()
    print([child.exitcode for child in children])
"""
    assert run(program, work, env).stdout == "[0, 0, 0]\n"
    found = known(work, env, {**{f"child-{number}": 5 for number in range(3)}, "parent": 1})
    for number in range(3):
        assert found[f"child-{number}"]["user"] == [f"turn {turn}" for turn in range(5)]


def test_processes_share_one_database(work: Path, env: dict[str, str]) -> None:
    program = """
import sys
from sqlalchemy import create_engine
from memori import Memori
mem = Memori(conn=create_engine("sqlite:///app.db"), embedding="none")
mem.config.storage.build()
mem.attribution(entity_id="ann")
for number in range(20):
    mem.capture([{"role": "user", "content": f"{sys.argv[1]}-{number}"}])
assert mem.augmentation.wait(60), mem.augmentation.failures()
"""
    processes = [start(program, work, env, str(number)) for number in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out + err
    found = known(work, env, {"ann": 80}, "sqlite:///app.db")
    assert sorted(found["ann"]["user"]) == sorted(f"{one}-{number}" for one in range(4) for number in range(20))


# The platform out of reach


def test_what_the_platform_could_not_take_comes_to_it_later(work: Path, env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "platform-home"
    folder.mkdir()
    gone = {
        **env,
        "MEMORI_API_KEY": "k",
        "MEMORI_API_URL": f"http://127.0.0.1:{free_port()}",
        "MEMORI_EXIT_DEADLINE_MS": "3000",
    }
    began = time.monotonic()
    run(f"{_BEGIN}\nfor number in range(10):\n    say('ann', f'I own book {{number}}.')\n", work, gone)
    assert time.monotonic() - began < 30
    with platform(folder, port=int(gone["MEMORI_API_URL"].rpartition(":")[2])):
        found = known(work, gone, {"ann": 10})
    assert found["ann"]["user"] == [f"I own book {number}." for number in range(10)]


def test_the_end_is_bounded(work: Path, env: dict[str, str], double: Double) -> None:
    """A platform that takes connections and says nothing does not hold a process."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        where = {**env, "MEMORI_API_KEY": "k", "MEMORI_API_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        where["MEMORI_EXIT_DEADLINE_MS"] = "1000"
        process = start(f"{_BEGIN}\nsay('ann', 'I live in Lisbon.')\nprint('said', flush=True)\n", work, where)
        assert process.stdout is not None
        assert process.stdout.readline() == "said\n"
        began = time.monotonic()
        try:
            process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0
        assert time.monotonic() - began < 10


def test_a_hard_end_right_after_the_start_leaves_a_usable_memory(work: Path, env: dict[str, str]) -> None:
    """Killed while it makes its tables, again and again."""
    for delay_ms in (0, 5, 20, 50, 100):
        program = f"{_BEGIN}\nimport time\nprint('up', flush=True)\ntime.sleep(30)\n"
        process = start(program, work, env)
        assert process.stdout is not None
        until(lambda process=process: process.stdout.readline() == "up\n", "the program is up")
        time.sleep(delay_ms / 1000)
        process.kill()
        process.communicate()
    run(f"{_BEGIN}\nsay('ann', 'I live in Lisbon.')\nassert mem.augmentation.wait(30)\n", work, env)
    assert json.dumps(known(work, env, {"ann": 1})["ann"]["user"]) == '["I live in Lisbon."]'
