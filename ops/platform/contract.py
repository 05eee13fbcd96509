"""The HTTP API held to its own OpenAPI document by Schemathesis: contract.py SCHEMATHESIS MEMORI [--examples N] [--seed N].

Once as a tenant whose key has every right but the operator's, once as the operator. No answer may be a 5xx, none may be of a status, type or
shape that the document does not name, and no route may do without a key. What is left out, and why, is in
ops/tools/schemathesis/schemathesis.toml.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

import checks

CONFIG = Path("ops/tools/schemathesis/schemathesis.toml").absolute()
RIGHTS = {"tenant": ("contract", ["events", "recall", "erase", "admin"]), "operator": ("*", ["admin"])}


def keys_file(folder):
    """Writes it, and answers the keys by name."""
    keys, lines = {}, []
    for name, (tenant, rights) in RIGHTS.items():
        keys[name] = f"contract-key-of-the-{name}-0123456789abcdef"
        digest = hashlib.sha256(keys[name].encode()).hexdigest()
        lines.append(f'[[keys]]\ntenant = "{tenant}"\nrights = {json.dumps(rights)}\nsha256 = "{digest}"\n')
    (folder / "keys.toml").write_text("\n".join(lines))
    return keys


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("schemathesis")
    arguments.add_argument("memori")
    arguments.add_argument("--examples", type=int, default=12, help="of each operation and phase")
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randint(1, 10**9))
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="memori-contract-") as folder:
        folder = Path(folder)
        keys = keys_file(folder)
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "XDG_CACHE_HOME")}
        env |= {"MEMORI__AUTH__KEYS_FILE": str(folder / "keys.toml"), "MEMORI__EMBEDDING__KIND": "none"}
        with (folder / "log").open("w") as log:
            up = subprocess.Popen(
                [given.memori, "up", "--listen", "127.0.0.1:0", "--data-dir", folder / "data"],
                stdout=subprocess.PIPE, stderr=log, text=True, env=env,
            )
        try:
            ready = up.stdout.readline().split()
            checks.that(ready[:1] == ["listening"], f"memori up is ready: {(folder / 'log').read_text()}")
            api = "http://" + next(part.removeprefix("api=") for part in ready if part.startswith("api="))
            for name, key in keys.items():
                since = time.monotonic()
                ran = subprocess.run(
                    [
                        given.schemathesis, "--config-file", CONFIG, "run", f"{api}/openapi.json", "--no-color", "--workers", "1",
                        "--max-examples", str(given.examples), "--seed", str(given.seed),
                        "--header", f"Authorization: Bearer {key}", "--warnings", "off",
                    ],
                    capture_output=True, text=True, check=False, cwd=folder,
                )
                cases = next((line.strip() for line in ran.stdout.splitlines() if " generated" in line), "no cases")
                checks.that(ran.returncode == 0, f"the API keeps its document, as the {name}, seed {given.seed}:\n{ran.stdout}{ran.stderr}")
                checks.that(up.poll() is None, f"memori up lives on, as the {name}: {(folder / 'log').read_text()}")
                print(f"contract, as the {name}: {cases}, in {time.monotonic() - since:.0f} s, seed {given.seed}")
        finally:
            up.terminate()
            up.wait(timeout=60)
        checks.that(up.returncode == 0, f"memori up ends well after it: {(folder / 'log').read_text()}")
    print(f"contract: {checks.passed} passed")


if __name__ == "__main__":
    main()
