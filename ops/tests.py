#!/usr/bin/env python3
"""Runs every test program of the workspace, two at a time: most of them wait for servers rather than work.

Cargo builds them and says where they are; each runs in its package's folder, as under `cargo test`. A line for each as it ends, the whole
output of those that failed, and at the end the sum. Those that hold rates against a clock run alone, after the others.
"""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import threading
import time

AT_A_TIME = 2
ALONE = {"quotas", "llm_pace"}
COUNT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)


def programs():
    """(name, folder, executable) of each test program; what the build has to say goes to our own output."""
    command = [os.environ.get("CARGO", "cargo"), "test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if built.returncode:
        sys.exit(built.returncode)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            folder = os.path.dirname(message["manifest_path"])
            kind = message["target"]["kind"][0]
            name = message["target"]["name"] if kind == "test" else f"{os.path.basename(folder)}, units of {message['target']['name']}"
            yield name, folder, message["executable"]


def main():
    # The longest are among the workspace's own tests: first, so that no long one is left for the end.
    found = sorted(programs(), key=lambda program: (os.path.basename(program[1]) != "tests", program[0]))
    passed = failed = ignored = 0
    broken, said = [], threading.Lock()

    def run(program):
        nonlocal passed, failed, ignored
        name, folder, executable = program
        began = time.monotonic()
        ended = subprocess.run([executable], cwd=folder, env={**os.environ, "CARGO_MANIFEST_DIR": folder}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        counts = [int(number) for found in COUNT.findall(ended.stdout) for number in found]
        with said:
            if counts:
                passed, failed, ignored = passed + counts[0], failed + counts[1], ignored + counts[2]
            if ended.returncode:
                broken.append(name)
                print(ended.stdout, flush=True)
            told = f"{counts[0]} passed" + (f", {counts[1]} failed" if counts[1] else "") if counts else "no count"
            print(f"{name}: {told} in {time.monotonic() - began:.0f} s" + (" — FAILED" if ended.returncode else ""), flush=True)

    together = [program for program in found if program[0] not in ALONE]
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(run, together))
    for program in found:
        if program[0] in ALONE:
            run(program)
    print(f"{passed} passed, {failed} failed, {ignored} skipped", flush=True)
    if broken:
        sys.exit(f"failed: {', '.join(broken)}")


if __name__ == "__main__":
    main()
