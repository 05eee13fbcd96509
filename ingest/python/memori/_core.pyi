"""The native core: one engine per process and target, in front of which this package is thin.

Nothing here blocks while it holds the interpreter's lock. What is said to be called from a thread of the core's runtime may
come at any time until the engine is closed, and an exception from it is counted and dropped.
"""

from collections.abc import Callable

__version__: str

def _flush_all() -> bool:
    """Whether what all engines of this process have queued is durable, each within its `exit_deadline_ms`, all at the same time."""

class Engine:
    """Log, worker, writer and recall in this process, or the way to a platform; shared by all that ask for the same configuration."""

    @staticmethod
    def open(config_json: str) -> Engine:
        """The engine of this process for exactly this configuration, started in the background where there is none yet.

        Engines belong to the process that opened them: after a fork the child opens its own, and dropping an engine, a member
        or a turn of the parent in the child does nothing. After `close` the same configuration opens a new engine.

        Raises ValueError for a configuration that cannot be right.

        Keys: `mode` ("sqlite", "postgres", "platform"), `path` (a SQLite file; null: the one of `data_dir`), `url` (Postgres or
        the platform), `api_key`, `data_dir`, `queue_events`, `queue_bytes`, `spool_max_bytes`, `recall_deadline_ms`, `unreachable_after_ms`,
        `exit_deadline_ms`, `token_budget`, `recall_limit`, `extractor` ({"kind": "builtin" | "llm", "base_url", "api_key",
        "model"}), `embedding` ({"kind": "builtin" | "none" | "openai", "base_url", "api_key", "model", "dimensions",
        "model_dir", "weights_dir"}).
        A key that is absent has the core's default.
        """

    def build(self, timeout_s: float) -> str:
        """Makes the tables, waits until the engine is up, and says in a sentence where memory lives.

        Raises RuntimeError, whose text says what to do, where that failed or did not come about in time.
        """

    def member(self) -> Member:
        """The ledger of one `Memori`: a number, no thread and no connection."""

    def set_workers(self, n: int) -> None:
        """How many extractions may run at once, from now on."""

    def set_batch_rows(self, n: int) -> None:
        """How many rows a flush of the writer gathers at most, from now on."""

    def stats_json(self) -> str:
        """Counters, levels, the knobs in effect with what they act on, and the last errors; a JSON object."""

    def notices(self) -> list[tuple[int, str]]:
        """What is worth logging since last asked, as (level of `logging`, text); bounded, a kind at most once a minute."""

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was queued when this was called is durable."""

    def close(self, timeout_s: float) -> bool:
        """Makes what is queued durable, as far as the time goes, and stops; whether all of it was made durable.

        Every call through this handle afterwards passes through.
        """

    def quota(self) -> tuple[str, float | None] | None:
        """While the platform refuses events for quota: its detail, and the seconds until it may accept again. A cheap read."""

    def request_json(self, method: str, path: str, body: bytes | None, deadline_ms: int) -> tuple[int, bytes]:
        """Any route of the HTTP contract, in process. Status 504 where the deadline came first; raises nothing."""

    def request_async(
        self, method: str, path: str, body: bytes | None, deadline_ms: int, done: Callable[[int, bytes], None]
    ) -> None:
        """As `request_json`; `done` is called once, from a thread of the core's runtime."""

class Member:
    """What one `Memori` captured, and whether it is applied."""

    def begin(
        self,
        scope: tuple[str, str | None, str | None],
        url_path: str,
        content_type: str | None,
        body: bytes,
        retry: int,
    ) -> Turn | None:
        """The turn that this request makes, or None where it is no conversation that we know.

        `scope` is entity, process and session. `retry` is the SDK's own count of tries before this one; a retry of a turn that
        has had no answer is the same turn, with the same event id and the same block. A body of more than 256 KiB is held as it
        is and read later, beside `inject_async`: where it is no conversation, the turn passes it through. Raises nothing.
        """

    def capture(self, event_json: bytes) -> str:
        """Queues a conversation event (as the body of `POST /v1/events`) and gives its id. ValueError where it is not one."""

    def capture_durable(self, event_json: bytes, timeout_s: float) -> tuple[str, bool]:
        """As `capture`; the second value says whether the event was durable within the time."""

    def wait(self, timeout_s: float | None) -> bool:
        """Whether all that this member captured is applied, once it is or the time is over. Signals interrupt it."""

    def wait_async(self, timeout_s: float | None, done: Callable[[bool], None]) -> None:
        """As `wait`; `done` is called once, from a thread of the core's runtime."""

    def failures_json(self) -> str:
        """The events of this member that were refused, dropped or dead-lettered: [{"event_id", "status", "class", "reason"}]."""

class Turn:
    """One call to a model. None of its methods raises."""

    event_id: str

    def inject(self) -> bytes:
        """The body to send, within the recall deadline: with the block, or the bytes that `begin` was given."""

    def inject_async(self, done: Callable[[bytes], None]) -> None:
        """As `inject`; `done` is called once, from a thread of the core's runtime."""

    def answer(self, status: int, content_type: str | None, body: bytes, latency_ms: float) -> None:
        """A whole answer, its content coding undone. Anything but 2xx leaves the turn open for a retry."""

    def feed(self, piece: bytes) -> None:
        """The next bytes of a streamed answer, cut anywhere, their content coding undone."""

    def end(self, status: int, complete: bool, latency_ms: float) -> None:
        """The stream is over. `complete` says whether its last byte was seen; an answer whose closing event was fed
        (`[DONE]`, `response.completed`, `message_stop`) is whole even where its reader stopped there."""
