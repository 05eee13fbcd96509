"""Figures with and without memory, each over several runs: the table for people, the rows for the record."""

from __future__ import annotations

import math
import statistics
import sys
from typing import Any


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * share)) - 1]


class Report:
    """Rows as they come in, shown at once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, case: str, unit: str, ours: list[float], floor: list[float], better: str = "lower") -> None:
        """`ours` with memory, `floor` without, a value a run."""
        if not self.rows:
            _say(f"{'case':<46} {'with memory':>12} {'without':>12} {'added':>10} {'runs':>5}  unit")
        with_memory, without = statistics.median(ours), statistics.median(floor)
        added = with_memory - without
        _say(f"{case:<46} {with_memory:>12.3f} {without:>12.3f} {added:>10.3f} {len(ours):>5}  {unit}")
        self.rows.append({"case": case, "unit": unit, "better": better, "ours": ours, "floor": floor})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
