"""A provider of models that is none: it speaks the wire formats of OpenAI (chat completions, responses) and Anthropic (messages), keeps
every byte that it was sent, and misbehaves when told to.

What it answers is a function of the request alone: the last user's text (less any `<memori_context>` block) after "You said: ", or a
call of the first tool while no tool has answered yet, or a JSON object that fits the schema that was asked for. Ids and times are
fixed, so that two calls with the same request get the same bytes.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

CREATED = 1_700_000_000
_BLOCK = re.compile(r"\s*<memori_context>.*?</memori_context>\s*", re.DOTALL)


@dataclass(frozen=True)
class Recorded:
    """One request, as its bytes were."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Behaviour:
    """How one answer comes: the defaults are an answer as it should be."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    """Before the first byte."""
    gap_s: float = 0.0
    """Between the pieces of a stream."""
    cut_after: int | None = None
    """The connection breaks after so many pieces of a stream, or bytes of a whole answer."""
    piece_bytes: int | None = None
    """Streams are cut into pieces of this size, through the middle of whatever is there."""
    body: bytes | None = None
    """Instead of an answer."""
    coding: str | None = None
    """"gzip" or "deflate"."""
    hang: bool = False
    """No answer at all, until the double is closed."""
    text: str | None = None
    """What the model says, instead of what it would."""


@dataclass
class Double:
    """The server, on a thread of its own; a context manager."""

    host: str = "127.0.0.1"
    requests: list[Recorded] = field(default_factory=list)
    standing: Behaviour = Behaviour()
    """How answers come for which nothing was planned."""

    def __post_init__(self) -> None:
        self._planned: list[Behaviour] = []
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0

    # What a test says and asks

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """What leads an SDK here without a change to the program."""
        return {
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": "sk-double",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "sk-ant-double",
        }

    def plan(self, *behaviours: Behaviour) -> None:
        """How the next answers come, in order."""
        with self._lock:
            self._planned.extend(behaviours)

    def bodies(self) -> list[Any]:
        return [request.json() for request in list(self.requests)]

    def clear(self) -> None:
        with self._lock:
            self.requests.clear()
            self._planned.clear()

    def __enter__(self) -> Double:  # noqa: PYI034 (typing has Self from 3.11 on)
        self._thread = threading.Thread(target=self._run, name="double", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the double does not listen")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    # The server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, self.host, 0, limit=64 << 20, backlog=2048)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for writer in list(self._open):
            writer.transport.abort()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                with self._lock:
                    self.requests.append(request)
                    behaviour = self._planned.pop(0) if self._planned and request.method == "POST" else self.standing
                if not await self._answer(request, behaviour, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, request: Recorded, behaviour: Behaviour, writer: asyncio.StreamWriter) -> bool:
        if behaviour.hang:
            await self._stopping.wait()
            return False
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        status, kind, answer = _answer_to(request, behaviour)
        head = [("Content-Type", kind), ("X-Request-Id", "req_double"), *behaviour.headers]
        if behaviour.coding is not None:
            head.append(("Content-Encoding", behaviour.coding))
        if isinstance(answer, bytes):
            body = answer if behaviour.coding is None else _coded(answer, behaviour.coding)
            head.append(("Content-Length", str(len(body))))
            writer.write(_head(status, head))
            writer.write(body if behaviour.cut_after is None else body[: behaviour.cut_after])
            await writer.drain()
            return behaviour.cut_after is None
        head.append(("Transfer-Encoding", "chunked"))
        writer.write(_head(status, head))
        sent = 0
        async for piece in _coded_stream(_resized(answer, behaviour.piece_bytes), behaviour):
            if behaviour.cut_after is not None and sent >= behaviour.cut_after:
                await writer.drain()
                return False
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            sent += 1
            if behaviour.gap_s:
                await asyncio.sleep(behaviour.gap_s)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _read_request(reader: asyncio.StreamReader) -> Recorded | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    named = {name.lower(): value for name, value in headers}
    body = b""
    if "content-length" in named:
        body = await reader.readexactly(int(named["content-length"]))
    elif named.get("transfer-encoding", "").lower() == "chunked":
        pieces = []
        while size := int(await reader.readline(), 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readline()
        body = b"".join(pieces)
    return Recorded(method, path, headers, body, time.monotonic())


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} Double\r\n{lines}\r\n".encode("latin-1")


def _coded(body: bytes, coding: str) -> bytes:
    return gzip.compress(body) if coding == "gzip" else zlib.compress(body)


async def _coded_stream(pieces: Iterable[bytes], behaviour: Behaviour) -> AsyncIterator[bytes]:
    if behaviour.coding is None:
        for piece in pieces:
            yield piece
        return
    packer = zlib.compressobj(wbits=31 if behaviour.coding == "gzip" else 15)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


def _resized(pieces: Iterator[bytes], size: int | None) -> Iterator[bytes]:
    if size is None:
        yield from pieces
        return
    whole = b"".join(pieces)
    for first in range(0, len(whole), size):
        yield whole[first : first + size]


def _answer_to(request: Recorded, behaviour: Behaviour) -> tuple[int, str, bytes | Iterator[bytes]]:
    path = request.path.partition("?")[0]
    anthropic = "/messages" in path
    if behaviour.body is not None:
        return behaviour.status, "application/json", behaviour.body
    if behaviour.status != 200:
        return behaviour.status, "application/json", json.dumps(_error(behaviour.status, anthropic)).encode()
    if request.method == "GET":
        return 200, "application/json", json.dumps({"object": "list", "data": []}).encode()
    if (request.header("content-type") or "").startswith("multipart/"):
        uploaded = {"id": "file-double", "object": "file", "bytes": len(request.body), "created_at": CREATED, "filename": "f"}
        return 200, "application/json", json.dumps({**uploaded, "purpose": "user_data", "status": "processed"}).encode()
    try:
        asked = request.json()
    except ValueError:
        return 400, "application/json", json.dumps(_error(400, anthropic)).encode()
    answer: Any
    if path.endswith("/chat/completions"):
        answer = _chat_stream(asked, behaviour) if asked.get("stream") else _chat(asked, behaviour)
    elif path.endswith("/responses"):
        answer = _responses_stream(asked, behaviour) if asked.get("stream") else _response(asked, behaviour)
    elif path.endswith("/messages/count_tokens"):
        answer = {"input_tokens": 7}
    elif path.endswith("/messages"):
        answer = _message_stream(asked, behaviour) if asked.get("stream") else _message(asked, behaviour)
    elif path.endswith("/embeddings"):
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        answer = {"object": "list", "model": asked.get("model"), "data": [vector], "usage": usage}
    else:
        return 404, "application/json", json.dumps(_error(404, anthropic)).encode()
    if isinstance(answer, dict):
        return 200, "application/json", json.dumps(answer).encode()
    return 200, "text/event-stream; charset=utf-8", answer


def _error(status: int, anthropic: bool) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    error = {"type": kind.get(status, "api_error"), "message": f"the double answers {status}"}
    return {"type": "error", "error": error} if anthropic else {"error": {**error, "param": None, "code": None}}


# What is said


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict) and "text" in part)
    return ""


def _said(messages: Any, behaviour: Behaviour) -> str:
    if behaviour.text is not None:
        return behaviour.text
    if isinstance(messages, str):
        return "You said: " + _BLOCK.sub("", messages)
    said = [text for m in messages if m.get("role") == "user" and (text := _BLOCK.sub("", _text_of(m.get("content"))))]
    return "You said: " + (said[-1] if said else "nothing")


def _pieces(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _fitting(schema: Any, definitions: Any = None) -> Any:
    """A value of a JSON schema."""
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return _fitting(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _fitting(schema["anyOf"][0], definitions)
    kind = schema.get("type")
    if kind == "object":
        return {name: _fitting(inner, definitions) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_fitting(schema.get("items", {"type": "string"}), definitions)]
    return {"integer": 3, "number": 1.5, "boolean": True, "null": None}.get(kind, "Paris")


# OpenAI, chat completions


def _chat_parts(asked: dict[str, Any], behaviour: Behaviour) -> tuple[str | None, list[dict[str, Any]]]:
    messages = asked.get("messages", [])
    tools = asked.get("tools") or []
    if tools and asked.get("tool_choice") != "none" and not any(m.get("role") == "tool" for m in messages):
        function = tools[0]["function"]
        arguments = json.dumps(_fitting(function.get("parameters", {"type": "object"})))
        return None, [{"id": "call_double", "type": "function", "function": {"name": function["name"], "arguments": arguments}}]
    wanted = asked.get("response_format") or {}
    if wanted.get("type") == "json_schema" and behaviour.text is None:
        return json.dumps(_fitting(wanted["json_schema"]["schema"])), []
    return _said(messages, behaviour), []


_CHAT_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def _chat(asked: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    text, calls = _chat_parts(asked, behaviour)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    reason = "tool_calls" if calls else "stop"
    count = asked.get("n") or 1
    choices = [{"index": i, "message": message, "logprobs": None, "finish_reason": reason} for i in range(count)]
    head = {"id": "chatcmpl-double", "object": "chat.completion", "created": CREATED, "model": asked.get("model")}
    return {**head, "choices": choices, "usage": _CHAT_USAGE, "system_fingerprint": "fp_double"}


def _chat_stream(asked: dict[str, Any], behaviour: Behaviour) -> Iterator[bytes]:
    text, calls = _chat_parts(asked, behaviour)
    head = {"id": "chatcmpl-double", "object": "chat.completion.chunk", "created": CREATED, "model": asked.get("model")}
    usage = (asked.get("stream_options") or {}).get("include_usage")

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _data({**head, "choices": [choice], **({"usage": None} if usage else {})})

    for index in range(asked.get("n") or 1):
        yield chunk(index, {"role": "assistant", "content": "" if text is not None else None})
        for piece in _pieces(text or ""):
            yield chunk(index, {"content": piece})
        for number, call in enumerate(calls):
            function = call["function"]
            begun = {"index": number, "id": call["id"], "type": "function", "function": {**function, "arguments": ""}}
            yield chunk(index, {"tool_calls": [begun]})
            for piece in _halves(function["arguments"]):
                yield chunk(index, {"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
        yield chunk(index, {}, "tool_calls" if calls else "stop")
    if usage:
        yield _data({**head, "choices": [], "usage": _CHAT_USAGE})
    yield b"data: [DONE]\n\n"


def _data(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _event(name: str, value: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]


# OpenAI, responses


def _response_output(asked: dict[str, Any], behaviour: Behaviour) -> list[dict[str, Any]]:
    given = asked.get("input", "")
    tools = [tool for tool in asked.get("tools") or [] if tool.get("type") == "function"]
    answered = isinstance(given, list) and any(item.get("type") == "function_call_output" for item in given)
    if tools and not answered and asked.get("tool_choice") != "none":
        arguments = json.dumps(_fitting(tools[0].get("parameters") or {"type": "object"}))
        call = {"type": "function_call", "id": "fc_double", "call_id": "call_double", "status": "completed"}
        return [{**call, "name": tools[0]["name"], "arguments": arguments}]
    wanted = (asked.get("text") or {}).get("format") or {}
    text = _said(given, behaviour)
    if wanted.get("type") == "json_schema" and behaviour.text is None:
        text = json.dumps(_fitting(wanted["schema"]))
    part = {"type": "output_text", "text": text, "annotations": []}
    return [{"type": "message", "id": "msg_double", "status": "completed", "role": "assistant", "content": [part]}]


def _response(asked: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    return {
        "id": "resp_double",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": None,
        "model": asked.get("model"),
        "output": _response_output(asked, behaviour),
        "parallel_tool_calls": True,
        "previous_response_id": asked.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": asked.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 18,
        },
        "user": None,
        "metadata": {},
    }


def _responses_stream(asked: dict[str, Any], behaviour: Behaviour) -> Iterator[bytes]:
    whole = _response(asked, behaviour)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    numbers = iter(range(1_000_000))

    def event(kind: str, **values: Any) -> bytes:
        return _event(kind, {"type": kind, "sequence_number": next(numbers), **values})

    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(whole["output"]):
        if item["type"] == "function_call":
            where = {"item_id": item["id"], "output_index": index}
            opened = {**item, "status": "in_progress", "arguments": ""}
            yield event("response.output_item.added", output_index=index, item=opened)
            for piece in _halves(item["arguments"]):
                yield event("response.function_call_arguments.delta", delta=piece, **where)
            named = {"name": item["name"], "arguments": item["arguments"]}
            yield event("response.function_call_arguments.done", **where, **named)
        else:
            part = item["content"][0]
            where = {"item_id": item["id"], "output_index": index, "content_index": 0}
            opened = {**item, "status": "in_progress", "content": []}
            yield event("response.output_item.added", output_index=index, item=opened)
            yield event("response.content_part.added", part={**part, "text": ""}, **where)
            for piece in _pieces(part["text"]):
                yield event("response.output_text.delta", delta=piece, logprobs=[], **where)
            yield event("response.output_text.done", text=part["text"], logprobs=[], **where)
            yield event("response.content_part.done", part=part, **where)
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=whole)


# Anthropic, messages


def _blocks(asked: dict[str, Any], behaviour: Behaviour) -> tuple[list[dict[str, Any]], str]:
    messages = asked.get("messages", [])
    tools = [tool for tool in asked.get("tools") or [] if "input_schema" in tool]
    results = any(
        part.get("type") == "tool_result" for m in messages if isinstance(m.get("content"), list) for part in m["content"]
    )
    if tools and not results and (asked.get("tool_choice") or {}).get("type") != "none":
        called = _fitting(tools[0]["input_schema"])
        call = {"type": "tool_use", "id": "toolu_double", "name": tools[0]["name"], "input": called}
        return [{"type": "text", "text": "I will look."}, call], "tool_use"
    wanted = (asked.get("output_config") or {}).get("format") or asked.get("output_format") or {}
    if wanted.get("type") == "json_schema" and behaviour.text is None:
        return [{"type": "text", "text": json.dumps(_fitting(wanted["schema"]))}], "end_turn"
    return [{"type": "text", "text": _said(messages, behaviour)}], "end_turn"


def _message(asked: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    blocks, reason = _blocks(asked, behaviour)
    head = {"id": "msg_double", "type": "message", "role": "assistant", "model": asked.get("model"), "content": blocks}
    return {**head, "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 11, "output_tokens": 7}}


def _message_stream(asked: dict[str, Any], behaviour: Behaviour) -> Iterator[bytes]:
    whole = _message(asked, behaviour)
    begun = {**whole, "content": [], "stop_reason": None, "usage": {"input_tokens": 11, "output_tokens": 1}}
    yield _event("message_start", {"type": "message_start", "message": begun})
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            opened: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": t} for t in _pieces(block["text"])]
        else:
            opened = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": half} for half in _halves(json.dumps(block["input"]))]
        yield _event("content_block_start", {"type": "content_block_start", "index": index, "content_block": opened})
        if index == 0:
            yield _event("ping", {"type": "ping"})
        for delta in deltas:
            yield _event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
        yield _event("content_block_stop", {"type": "content_block_stop", "index": index})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}})
    yield _event("message_stop", {"type": "message_stop"})


if __name__ == "__main__":
    with Double() as double:
        print(json.dumps({"url": double.url, **double.environment}), flush=True)
        sys.stdin.read()
