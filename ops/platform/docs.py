"""Commands of a page: those in blocks of shell under a line `<!-- run -->`."""

import re
import subprocess
from pathlib import Path


def blocks(page):
    """The blocks, in their order."""
    found = re.findall(r"<!-- run -->\n```sh\n(.*?)```", Path(page).read_text(), re.DOTALL)
    if not found:
        raise SystemExit(f"{page} has no block to run")
    return found


def run(page, env, change=lambda text: text):
    """Runs each; ends where one fails."""
    for block in blocks(page):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", change(block)], capture_output=True, text=True, env=env, check=False)
        if done.returncode:
            raise SystemExit(f"{page}: {block}\n{done.stdout}{done.stderr}")
    return len(blocks(page))
