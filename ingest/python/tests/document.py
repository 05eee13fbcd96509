"""The code of the document that this package is held to.

The text has lost its markup and its indentation. A block of code begins with an import (or the one comment that heads a sketch) and
ends where the document goes on in prose. Indentation comes back by rule: what ends in a colon opens a level, brackets hold their
lines together, `return`, `raise` and `yield` close a level, what can only stand at the left stands there. Three lines that follow
a loop, which no rule can tell from its body, are listed.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

TEXT = Path(__file__).parent / "seed" / "async-patterns.txt"

_BEGINS = re.compile(r"(import \w+|from [\w.]+ import )|# Internal augmentation flow")
_LEFT = re.compile(
    r"(import |from |@|def |async def |class |asyncio\.run\(|app = |engine = |SessionLocal = |security = |# (Build|Database))"
)
_AFTER_A_LOOP = {
    "print() # Newline after streaming": 1,
    "results = await asyncio.gather(*tasks)": 1,
    "if ctx.writes:": 2,
}
# The document's prose is in sentences, items of lists and titles; these are the titles that follow code.
_TITLES = {
    "With BYODB (SQLAlchemy)",
    "AsyncAnthropic",
    "FastAPI Integration",
    "FastAPI with BYODB",
    "FastAPI with Dependency Injection",
    "Streaming Responses",
    "FastAPI Streaming",
    "Concurrent Operations",
    "Batched Recall",
    "Internal Async Architecture",
    "Mixing Sync and Async",
    "Thread Safety",
    "Error Handling",
    "Testing Async Code",
}
_PROSE = re.compile(r"(- |[A-Z][\w’']+ [\w()., ’']+ [\w()., ’'/-]+\.?( |$)|Always call |Prefer async )")


@dataclass(frozen=True)
class Block:
    """One block of code, whole."""

    title: str
    line: int
    source: str

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", self.title).strip("-").lower()


def blocks(text: str | None = None) -> list[Block]:
    """Every block of code, in order, under the title that it stands under."""
    lines = (TEXT.read_text(encoding="utf-8") if text is None else text).splitlines()
    found: list[Block] = []
    title, at = "", 0
    while at < len(lines):
        if not _BEGINS.match(lines[at]):
            if len(lines[at]) < 60 and not lines[at].endswith((":", ".")) and not lines[at].startswith(("-", "|", "memori/")):
                title = lines[at]
            at += 1
            continue
        end = at
        while end < len(lines) and not _ends_code(lines[end]):
            end += 1
        found.append(Block(title, at + 1, indented(lines[at:end])))
        at = end
    return found


def _ends_code(line: str) -> bool:
    return line in _TITLES or (_PROSE.match(line) is not None and not line.startswith("#"))


def indented(lines: list[str]) -> str:
    """The lines with their indentation, proven to compile."""
    out: list[str] = []
    level = depth = 0
    opened = False
    closes = False
    levels_of_try: list[int] = []
    for line in lines:
        code = _without_comment(line)
        if depth > 0:
            closing = len(code) - len(code.lstrip(")]}"))
            out.append("    " * (level + max(1, depth) - (1 if closing else 0)) + line)
        else:
            if opened:
                level += 1
            elif line in _AFTER_A_LOOP:
                level = _AFTER_A_LOOP[line]
            elif _LEFT.match(line):
                level = 0
            elif code.startswith("except"):
                level = levels_of_try[-1]
            elif closes:
                level = max(0, level - 1)
            if code == "try:":
                levels_of_try.append(level)
            out.append("    " * level + line)
        depth += _opened_brackets(code)
        opened = depth == 0 and code.endswith(":")
        closes = depth == 0 and bool(re.match(r"(return|raise|yield)\b", code))
    source = "\n".join(out) + "\n"
    ast.parse(source)
    return source


def _without_comment(line: str) -> str:
    if "#" not in line:
        return line.rstrip()
    if line.startswith("#"):
        return ""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
    except (tokenize.TokenError, IndentationError):
        tokens = []
    at = next((token.start[1] for token in tokens if token.type == tokenize.COMMENT), None)
    if at is None:
        at = line.rfind(" # ") if " # " in line else len(line)
    return line[:at].rstrip()


def _opened_brackets(code: str) -> int:
    bare = re.sub(r'f?"(\\.|[^"\\])*"|\'(\\.|[^\'\\])*\'', "", code)
    return sum(bare.count(c) for c in "([{") - sum(bare.count(c) for c in ")]}")
