"""The engines of this process: one per configuration, opened once, closed at exit, forgotten in a forked child."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from ._errors import ConfigurationError

if TYPE_CHECKING:
    from . import _core

logger = logging.getLogger("memori")

_MINUTE_S = 60.0
_NOTICES_EVERY_S = 1.0


class Engine:
    """An engine of the core, with what Python keeps beside it."""

    def __init__(self, config: str, native: _core.Engine, generation: int, exit_deadline_ms: int) -> None:
        self.config = config
        self.native = native
        self.generation = generation
        self.exit_deadline_ms = exit_deadline_ms
        self._notices_at = 0.0

    def log_notices(self, now: bool = False) -> None:
        """Passes the core's notices on to `logging`."""
        at = time.monotonic()
        if not now and at - self._notices_at < _NOTICES_EVERY_S:
            return
        self._notices_at = at
        try:
            for level, text in self.native.notices():
                logger.log(level, "%s", text)
        except Exception as error:
            failed("notices", error)

    def flush(self) -> None:
        """Makes what is queued durable, in bounded time; says so and counts it where that was not possible."""
        durable = False
        try:
            durable = self.native.flush(self.exit_deadline_ms / 1000)
        except Exception as error:
            failed("flush", error)
        self.log_notices(now=True)
        if not durable:
            _not_durable("closing", self.exit_deadline_ms)


def _not_durable(when: str, deadline_ms: int) -> None:
    count(
        "not_durable",
        f"{when}: what was captured last is not durable after {deadline_ms} ms (exit_deadline_ms), and is lost when the process ends; "
        "stats() says what is away",
    )


_lock = threading.RLock()
_engines: dict[str, Engine] = {}
# What a forked child inherits is never used and never destroyed: the threads behind it are the parent's.
_inherited: list[Any] = []
_generation = 0
_hooked_to_exit = False


def open_engine(config: dict[str, Any], exit_deadline_ms: int) -> Engine:
    """The engine for a configuration; the core is loaded with the first."""
    text = json.dumps(config, sort_keys=True)
    engine = _engines.get(text)
    if engine is not None:
        return engine
    from . import _core

    with _lock:
        engine = _engines.get(text)
        if engine is None:
            try:
                native = _core.Engine.open(text)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
            engine = _engines[text] = Engine(text, native, _generation, exit_deadline_ms)
            _stop_at_exit()
        return engine


def lock() -> threading.RLock:
    """For what several threads may register and close at once; another one after a fork."""
    return _lock


def generation() -> int:
    """How many forks lie between the process that loaded this and the one that runs it."""
    return _generation


def keep_inherited(thing: Any) -> None:
    """Keeps what belongs to the parent process from being destroyed in this one."""
    _inherited.append(thing)


def _stop_at_exit() -> None:
    global _hooked_to_exit
    if _hooked_to_exit:
        return
    _hooked_to_exit = True
    atexit.register(_stop_all)
    # Children of `multiprocessing` leave without `atexit`.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _stop_all, exitpriority=0)


def _stop_all() -> None:
    with _lock:
        engines = [engine for engine in _engines.values() if engine.generation == _generation]
        _engines.clear()
    if not engines:
        return
    from . import _core

    # All at once: one that is away takes nothing of the others' time, and all together take no longer than the longest may.
    deadline_ms = max(engine.exit_deadline_ms for engine in engines)
    end = time.monotonic() + deadline_ms / 1000
    durable = False
    try:
        durable = _core._flush_all()
    except Exception as error:
        failed("flush", error)
    for engine in engines:
        try:
            engine.native.close(max(0.0, end - time.monotonic()))
        except Exception as error:
            failed("close", error)
        engine.log_notices(now=True)
    if not durable:
        _not_durable("the process ends", deadline_ms)


def _after_in_child() -> None:
    global _generation, _hooked_to_exit, _lock
    _generation += 1
    _lock = threading.RLock()
    _inherited.append(list(_engines.values()))
    _engines.clear()
    _hooked_to_exit = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)


# What failed in Python, by where; the core counts its own.
_counts: Counter[str] = Counter()
_logged_at: dict[str, float] = {}


def count(reason: str, text: str) -> None:
    """Counts something that memory went without, and says so once a minute."""
    _counts[reason] += 1
    now = time.monotonic()
    if now - _logged_at.get(reason, -_MINUTE_S) >= _MINUTE_S:
        _logged_at[reason] = now
        logger.warning("%s", text)


def failed(where: str, error: BaseException) -> None:
    """A failure of ours, which never reaches the caller. Its text is not logged: it may hold what was said."""
    try:
        count(f"{where}_failed", f"memory is left out of a call: {where} failed with {type(error).__name__}")
    except Exception:
        pass


def counts() -> dict[str, int]:
    return dict(_counts)
