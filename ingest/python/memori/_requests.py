"""What is asked of memory outright, as the JSON of the HTTP contract, and what its refusals are called here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ._context import Attribution
from ._errors import (
    AttributionError,
    AuthenticationError,
    InvalidRequestError,
    MemoriError,
    QuotaExceededError,
    RecallError,
)

MAX_LIMIT = 1_000
MAX_QUERIES = 100

_OPTIONS = frozenset(
    {
        "entity_id",
        "process_id",
        "session_id",
        "kinds",
        "instruction_limit",
        "as_of",
        "include_superseded",
        "include_messages",
        "token_budget",
        "min_score",
    }
)


def checked_id(name: str, value: object) -> str:
    """An id as the contract wants it: 1 to 256 bytes of text without U+0000. Numbers and UUIDs are written out."""
    if isinstance(value, bool) or value is None or isinstance(value, (bytes, list, tuple, dict, set)):
        raise AttributionError(f"{name} is text, not {type(value).__name__}")
    text = value if isinstance(value, str) else str(value)
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise AttributionError(f"{name} is not Unicode: it holds half of a surrogate pair") from None
    if not 1 <= length <= 256:
        raise AttributionError(f"{name} is 1 to 256 bytes long, not {length}")
    if "\0" in text:
        raise AttributionError(f"{name} holds the character U+0000")
    return text


def recall_query(attribution: Attribution | None, query: object, limit: object, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `POST /v1/recall`. Facts of every process and session, unless they are named."""
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise InvalidRequestError(f"recall has no option {', '.join(unknown)}; it has {', '.join(sorted(_OPTIONS))}")
    if not isinstance(query, str):
        raise InvalidRequestError(f"a query is text, not {type(query).__name__}")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequestError(f"limit is a whole number from 1 to {MAX_LIMIT}, not {limit!r}")
    body: dict[str, Any] = {name: _plain(value) for name, value in options.items() if value is not None}
    entity_id = body.get("entity_id") or (attribution.entity_id if attribution is not None else None)
    if entity_id is None:
        raise AttributionError("there is nobody to recall: call mem.attribution(entity_id=...) first, or pass entity_id")
    body["entity_id"] = checked_id("entity_id", entity_id)
    body["query"] = query
    body["limit"] = limit
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidRequestError("a time needs its zone: datetime(..., tzinfo=timezone.utc)")
        return value.isoformat()
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    return value


def conversation_event(
    attribution: Attribution | None,
    messages: Iterable[Mapping[str, Any]],
    event_id: str | None,
    occurred_at: datetime | str | None,
    metadata: Mapping[str, str] | None,
) -> bytes:
    """The body of `POST /v1/events`."""
    if attribution is None or attribution.entity_id is None:
        raise AttributionError("there is nobody to remember: call mem.attribution(entity_id=...) first")
    if isinstance(messages, (str, bytes, Mapping)):
        raise InvalidRequestError('messages is a list of {"role": ..., "content": ...}')
    listed = [dict(message) for message in messages]
    if not listed:
        raise InvalidRequestError("there is no message")
    for index, message in enumerate(listed):
        if message.get("role") not in ("user", "assistant", "system", "tool") or "content" not in message:
            raise InvalidRequestError(f"messages[{index}] has a role (user, assistant, system, tool) and a content")
        if isinstance(message.get("created_at"), datetime):
            message["created_at"] = _plain(message["created_at"])
    event: dict[str, Any] = {"entity_id": attribution.entity_id, "messages": listed}
    for name, value in (
        ("event_id", event_id),
        ("process_id", attribution.process_id),
        ("session_id", attribution.session_id),
        ("occurred_at", _plain(occurred_at)),
        ("metadata", dict(metadata) if metadata is not None else None),
    ):
        if value is not None:
            event[name] = value
    try:
        return json.dumps(event).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the messages are not JSON: {error}") from None


def entity_path(entity_id: str) -> str:
    return f"/v1/entities/{quote(entity_id, safe='')}"


def answered(status: int, body: bytes, failure: type[MemoriError] = RecallError) -> dict[str, Any]:
    """The answer's JSON, or the error that it is."""
    try:
        answer = json.loads(body) if body else {}
    except ValueError:
        answer = None
    if 200 <= status < 300 and isinstance(answer, dict):
        return answer
    problem = answer if isinstance(answer, dict) else {}
    raise error_of(status, problem, failure)


def error_of(status: int, problem: Mapping[str, Any], failure: type[MemoriError]) -> MemoriError:
    text = str(problem.get("detail") or problem.get("title") or f"the memory answered {status}")
    fields = problem.get("errors")
    if isinstance(fields, list) and fields:
        text += "".join(f"; {field.get('path')}: {field.get('message')}" for field in fields if isinstance(field, dict))
    if status in (401, 403):
        return AuthenticationError(text)
    if status == 429:
        return QuotaExceededError(text)
    if status in (400, 413, 415, 422):
        return InvalidRequestError(text)
    if status == 504:
        return failure(problem.get("detail") or "the memory did not answer in time")
    return failure(text)
