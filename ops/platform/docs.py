"""Commands of a page: its blocks of shell, but for what tests/left_out.json names."""

import json
import re
import subprocess
from pathlib import Path


def blocks(page):
    """The blocks, in their order, without what is left out."""
    found = re.findall(r"^```sh\n(.*?)^```", Path(page).read_text(), re.DOTALL | re.MULTILINE)
    for left in json.loads(Path("tests/left_out.json").read_text()):
        if left["page"] == page:
            command = re.compile(rf"^{re.escape(left['command'])}[ \t]*(#.*)?\n", re.MULTILINE)
            if not any(command.search(block) for block in found):
                raise SystemExit(f"{page} does not say {left['command']!r} any more")
            found = [command.sub("", block) for block in found]
    found = [block for block in found if block.strip()]
    if not found:
        raise SystemExit(f"{page} has no block to run")
    return found


def run(page, env, change=lambda text: text, instead=lambda _: False):
    """Runs each, as it stands but for `change`; ends where one fails. `instead` takes a block upon itself by answering that it did."""
    for block in blocks(page):
        if instead(block):
            continue
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", change(block)], capture_output=True, text=True, env=env, check=False)
        if done.returncode:
            raise SystemExit(f"{page}: {block}\n{done.stdout}{done.stderr}")
    return len(blocks(page))


def named(pages, program):
    """The commands of `program` that sentences of these pages name, between backticks: (page, command)."""
    found = []
    for page in pages:
        text = re.sub(r"^```.*?^```", "", Path(page).read_text(), flags=re.DOTALL | re.MULTILINE)
        found += [(page, command) for command in re.findall(rf"`({program} [^`]+)`", text)]
    return found
