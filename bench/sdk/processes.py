"""What memory costs a process, each figure from fresh ones: to import it, to begin, an instance, its resident memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_IMPORT = """
import time
began = time.perf_counter()
import {module}
print((time.perf_counter() - began) * 1e3)
"""

_FIRST = """
import sys, time
import openai
from memori import Memori
began = time.perf_counter()
client = openai.OpenAI(api_key="none")
made = time.perf_counter()
Memori(data_dir=sys.argv[1]).llm.register(client)
import json
print(json.dumps([(time.perf_counter() - made) * 1e3, (made - began) * 1e3]))
"""

_INSTANCES = """
import sys, time, json, threading
import openai
from memori import Memori
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
def threads():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
client = openai.OpenAI(api_key="none")
def make():
    return Memori(data_dir=sys.argv[1]).llm.register(client).attribution(entity_id="ann", process_id="web")
make().config.storage.build()
for _ in range(200):
    make()
before, threads_before = resident(), threads()
began = time.perf_counter()
held = [make() for _ in range(1000)]
took = time.perf_counter() - began
grown = resident() - before
new_threads = threads() - threads_before
began = time.perf_counter()
for _ in range(50):
    openai.OpenAI(api_key="none")
client_took = (time.perf_counter() - began) / 50
print(json.dumps([took * 1e3, client_took * 1e6, grown / 1000 / 1024, new_threads]))
"""

_RESIDENT = """
import sys, json
import openai
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / (1 << 20)
def call(client):
    messages = [{"role": "user", "content": "Where did I get the red bicycle?"}]
    client.chat.completions.create(model="m", messages=messages)
client = openai.OpenAI(api_key="none", base_url=sys.argv[2])
call(client)
without = resident()
from memori import Memori
mem = Memori(data_dir=sys.argv[1], recall_deadline_ms=20_000).llm.register(client)
mem.config.storage.build()
begun = resident()
mem.attribution(entity_id=sys.argv[3])
call(client)
assert mem.augmentation.wait(60)
print(json.dumps([without, begun, resident(), mem.stats()["injected"]]))
"""


def _run(source: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", source, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def import_ms(module: str) -> float:
    return float(_run(_IMPORT.format(module=module)))


def first_ms(data_dir: str) -> tuple[float, float]:
    """The first `Memori(...).llm.register(...)`, beside the first client."""
    ours, floor = _run(_FIRST, data_dir)
    return ours, floor


def instance(data_dir: str) -> tuple[float, float, float, int]:
    """Microseconds of one more `Memori`, and of one more client; KiB and threads that a thousand of them add, each."""
    ours, floor, kib, threads = _run(_INSTANCES, data_dir)
    return ours, floor, kib, threads


def resident_mib(data_dir: str, url: str, entity_id: str) -> tuple[float, float, float]:
    """Without memory, with an engine that is up, and after a call with the entity's facts."""
    without, begun, after, injected = _run(_RESIDENT, data_dir, f"{url}/v1", entity_id)
    if not injected:
        raise RuntimeError("the call had no facts in it")
    return without, begun, after
