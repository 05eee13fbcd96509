"""What recall gives back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

_FRACTION = re.compile(r"\.(\d+)")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    micros = _FRACTION.sub(lambda found: "." + found[1][:6].ljust(6, "0"), text)
    # Python 3.10 knows no "Z".
    return datetime.fromisoformat(f"{micros[:-1]}+00:00" if micros.endswith(("Z", "z")) else micros)


class _Record:
    """A JSON object with attributes. `record["key"]` is the value as it came; attributes that are times are `datetime`."""

    __slots__ = ("_values",)
    _times: frozenset[str] = frozenset()
    _known: frozenset[str] = frozenset()

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            if name in self._known:
                return None
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self._values)}")
        value = self._values[name]
        return _time(value) if name in self._times else value

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Record) and type(self) is type(other) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def keys(self) -> Iterable[str]:
        return self._values.keys()

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as it came."""
        return dict(self._values)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._values, *self._known})


class Source(_Record):
    """One message that a fact rests on."""

    __slots__ = ()
    _times = frozenset({"occurred_at"})
    _known = frozenset({"event_id", "message_id", "session_id", "occurred_at"})

    event_id: str
    message_id: str
    session_id: str | None
    occurred_at: datetime | None

    def __repr__(self) -> str:
        return f"Source(event_id={self.get('event_id')!r}, message_id={self.get('message_id')!r})"


class Message(_Record):
    """Something that was said, where recall was asked for the words."""

    __slots__ = ()
    _times = frozenset({"occurred_at"})
    _known = frozenset({"message_id", "event_id", "session_id", "role", "content", "occurred_at", "score"})

    message_id: str
    event_id: str
    session_id: str | None
    role: str
    content: Any
    occurred_at: datetime | None
    score: float

    def __repr__(self) -> str:
        return f"Message(role={self.get('role')!r}, content={self.get('content')!r}, score={self.get('score')!r})"


class Fact(_Record):
    """One statement about an entity, with its evidence."""

    __slots__ = ()
    _times = frozenset({"occurred_at", "first_mentioned_at", "last_mentioned_at", "valid_from", "valid_to"})
    _known = frozenset(
        {
            "fact_id",
            "kind",
            "content",
            "score",
            "subject",
            "predicate",
            "object",
            "mentions",
            "extractor",
            "generation",
            *_times,
        }
    )

    fact_id: str
    kind: str
    content: str
    score: float
    subject: str | None
    predicate: str | None
    object: str | None
    occurred_at: datetime | None
    first_mentioned_at: datetime | None
    last_mentioned_at: datetime | None
    mentions: int
    valid_from: datetime | None
    valid_to: datetime | None
    extractor: str | None
    generation: int | None

    @property
    def sources(self) -> list[Source]:
        return [Source(source) for source in self._values.get("sources") or ()]

    def __repr__(self) -> str:
        score = self.get("score")
        shown = f"{score:.2f}" if isinstance(score, float) else repr(score)
        return f"Fact({self.get('content')!r}, score={shown}, kind={self.get('kind')!r})"

    def __str__(self) -> str:
        return str(self.get("content", ""))


class Facts(list[Fact]):
    """The recalled facts, best first; what else the answer held is beside them."""

    __slots__ = ("instructions", "messages", "took_ms")

    def __init__(self, answer: Mapping[str, Any] | None = None) -> None:
        answer = answer or {}
        super().__init__(Fact(fact) for fact in answer.get("facts") or ())
        self.instructions: list[Fact] = [Fact(fact) for fact in answer.get("instructions") or ()]
        self.messages: list[Message] = [Message(message) for message in answer.get("messages") or ()]
        self.took_ms: float | None = answer.get("took_ms")
