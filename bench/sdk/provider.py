"""A provider of models that answers at once, in a process of its own: fixed bytes, in the wire formats of OpenAI and Anthropic.

It is the floor of what is measured, so it looks at a request no further than it must: where it ends, and which answer it asks for.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHUNKS = 50
_WORDS = [f"word{number} " for number in range(CHUNKS)]
_TEXT = "".join(_WORDS)


def _whole(answer: Any) -> list[bytes]:
    body = json.dumps(answer).encode()
    return [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body]


def _stream(events: list[bytes]) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"]


def _chat() -> Iterator[list[bytes]]:
    usage = {"prompt_tokens": 11, "completion_tokens": CHUNKS, "total_tokens": 11 + CHUNKS}
    head: dict[str, Any] = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m"}
    message = {"role": "assistant", "content": _TEXT}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    yield _whole({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    pieces = [{**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": w}}]} for w in _WORDS]
    pieces[-1]["choices"][0]["finish_reason"] = "stop"
    yield _stream([*(b"data: %s\n\n" % json.dumps(piece).encode() for piece in pieces), b"data: [DONE]\n\n"])


def _messages() -> Iterator[list[bytes]]:
    head: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
    usage = {"input_tokens": 11, "output_tokens": CHUNKS}
    text = {"type": "text", "text": _TEXT}
    yield _whole({**head, "content": [text], "stop_reason": "end_turn", "usage": usage})
    delta = {"type": "content_block_delta", "index": 0}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**head, "content": [], "stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({**delta, "delta": {"type": "text_delta", "text": word}} for word in _WORDS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    yield _stream([f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events])


_ANSWERS = {b"/v1/chat/completions": tuple(_chat()), b"/v1/messages": tuple(_messages())}


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        self._received = rest[length:]
        streams = b'"stream":true' in rest or b'"stream": true' in rest
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        self._send(iter(_ANSWERS[path][streams]))

    def _send(self, pieces: Iterator[bytes]) -> None:
        """Each piece in a packet of its own."""
        piece = next(pieces, None)
        if piece is not None:
            self._transport.write(piece)
            asyncio.get_running_loop().call_soon(self._send, pieces)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Its parent's end of the pipe is its life.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def running() -> Iterator[str]:
    """Starts it, and gives its address."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve())
