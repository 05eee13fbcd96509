"""What happens to captured events behind the caller's back, and how to wait for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _bridge
from ._errors import ConfigurationError

if TYPE_CHECKING:
    from ._memori import Memori


@dataclass(frozen=True)
class Failure:
    """A captured event of which nothing will be remembered, unless an operator puts it back."""

    event_id: str
    status: str
    reason: str | None = None
    failure_class: str | None = None


class Augmentation:
    """`mem.augmentation`: extraction in the background, for everybody who shares this memory's engine."""

    __slots__ = ("_mem",)

    def __init__(self, mem: Memori) -> None:
        self._mem = mem

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all that this `Memori` captured is applied, so that a recall right after this sees it.

        False when the time is over, when an event failed for good (see `failures`), and, whatever the timeout, when the
        database or the platform has been out of reach for some seconds; the events are kept then, and go on later.
        """
        limit = _seconds(timeout)
        result = self._mem.member().wait(limit)
        self._mem.engine().log_notices()
        return result

    async def wait_async(self, timeout: float | None = None) -> bool:
        """`wait`, without blocking the event loop."""
        limit = _seconds(timeout)
        member = self._mem.member()
        result: bool = await _bridge.completed(lambda done: member.wait_async(limit, done), lambda: member.wait(limit))
        self._mem.engine().log_notices()
        return result

    def failures(self) -> list[Failure]:
        """The events of this `Memori` that failed for good, and why."""
        failures: list[dict[str, Any]] = json.loads(self._mem.member().failures_json())
        return [
            Failure(
                event_id=str(failure.get("event_id", "")),
                status=str(failure.get("status", "dead_lettered")),
                reason=failure.get("reason"),
                failure_class=failure.get("class"),
            )
            for failure in failures
        ]

    @property
    def max_workers(self) -> int:
        """How many events may be in extraction at once. Takes effect at once."""
        return self._asked("workers")

    @max_workers.setter
    def max_workers(self, value: int) -> None:
        self._mem.engine().native.set_workers(_whole("max_workers", value, 1, 10_000))

    @property
    def db_writer_batch_size(self) -> int:
        """How many rows one transaction of the writer gathers at most. Takes effect at once."""
        return self._asked("batch_rows")

    @db_writer_batch_size.setter
    def db_writer_batch_size(self, value: int) -> None:
        self._mem.engine().native.set_batch_rows(_whole("db_writer_batch_size", value, 1, 1_000_000))

    def _asked(self, knob: str) -> int:
        return int(json.loads(self._mem.engine().native.stats_json())[knob]["asked"])


def _seconds(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ConfigurationError(f"timeout is a number of seconds from 0, or None, not {timeout!r}")
    return float(timeout)


def _whole(name: str, value: int, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ConfigurationError(f"{name} is a whole number from {lowest} to {highest}, not {value!r}")
    return value
