"""Every way to make a call, written once for synchronous and asynchronous clients, on whatever line of an SDK is installed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
from pydantic import BaseModel

QUESTION = "Where do I live?"
ANSWER = f"You said: {QUESTION}"

MODEL = "gpt-4o-mini"
CLAUDE = "claude-3-5-sonnet-20241022"


class Place(BaseModel):
    """What structured answers are parsed into."""

    city: str
    people: int


class Missing(Exception):
    """This line of the SDK has no such surface."""


async def now(value: Any) -> Any:
    """The value, or what it is awaited to."""
    return await value if inspect.isawaitable(value) else value


async def every(stream: Any) -> list[Any]:
    """All items of an iterator of either kind."""
    if hasattr(stream, "__aiter__"):
        return [item async for item in stream]
    return list(stream)


class entered:
    """`async with` over a context manager of either kind."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    async def __aenter__(self) -> Any:
        if hasattr(self._manager, "__aenter__"):
            return await self._manager.__aenter__()
        return self._manager.__enter__()

    async def __aexit__(self, *error: object) -> None:
        if hasattr(self._manager, "__aexit__"):
            await self._manager.__aexit__(*error)
        else:
            self._manager.__exit__(*error)


def dumped(value: Any) -> Any:
    """A value as its type's name and its content, so that two of them can be told apart."""
    if isinstance(value, list):
        return [dumped(item) for item in value]
    if isinstance(value, BaseModel):
        return type(value).__name__, value.model_dump(mode="json", warnings=False)
    return type(value).__name__, value


def at(client: Any, *paths: str) -> Any:
    """The first of these attributes that this line has."""
    for path in paths:
        found = client
        for name in path.split("."):
            found = getattr(found, name, None)
            if found is None:
                break
        else:
            return found
    raise Missing(paths[0])


@dataclass(frozen=True)
class Surface:
    """One of them. `call` gets a client and the messages, and gives all that the caller would see."""

    name: str
    provider: str
    call: Callable[[Any, Any], Awaitable[Any]]
    conversation: Callable[[], Any]
    answer: str | None = ANSWER
    """What the assistant is known to have said; None where it called a tool."""
    azure: bool = False


SURFACES: list[Surface] = []


def plain() -> list[dict[str, Any]]:
    return [{"role": "user", "content": QUESTION}]


def long() -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi, how can I help?"},
        {"role": "user", "content": QUESTION},
    ]


def with_system() -> list[dict[str, Any]]:
    return [{"role": "system", "content": "You are terse."}, *long()]


def in_parts() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]


def surface(provider: str, conversation: Callable[[], Any] = plain, answer: str | None = ANSWER, azure: bool = False) -> Any:
    def add(call: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        SURFACES.append(Surface(call.__name__, provider, call, conversation, answer, azure))
        return call

    return add


_PLACE_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_CHAT_TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": _PLACE_SCHEMA}}
_RESPONSES_TOOL: Any = {"type": "function", "name": "look_up", "parameters": _PLACE_SCHEMA, "strict": True}
_CLAUDE_TOOL: Any = {"name": "look_up", "description": "Looks up.", "input_schema": _PLACE_SCHEMA}
_PARSED = '{"city": "Paris", "people": 3}'


# OpenAI, chat completions


@surface("openai")
async def chat_create(client: Any, messages: Any) -> Any:
    return await now(client.chat.completions.create(model=MODEL, messages=messages))


@surface("openai", with_system)
async def chat_create_with_history(client: Any, messages: Any) -> Any:
    return await now(client.chat.completions.create(model=MODEL, messages=messages, temperature=0.5, user="me"))


@surface("openai", in_parts)
async def chat_create_parts(client: Any, messages: Any) -> Any:
    return await now(client.chat.completions.create(model=MODEL, messages=messages))


@surface("openai")
async def chat_create_n(client: Any, messages: Any) -> Any:
    return await now(client.chat.completions.create(model=MODEL, messages=messages, n=2))


@surface("openai")
async def chat_stream(client: Any, messages: Any) -> Any:
    return await every(await now(client.chat.completions.create(model=MODEL, messages=messages, stream=True)))


@surface("openai")
async def chat_stream_usage(client: Any, messages: Any) -> Any:
    options = {"include_usage": True}
    return await every(
        await now(client.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options=options))
    )


@surface("openai", answer=None)
async def chat_tools(client: Any, messages: Any) -> Any:
    return await now(client.chat.completions.create(model=MODEL, messages=messages, tools=[_CHAT_TOOL]))


@surface("openai", answer=None)
async def chat_tools_stream(client: Any, messages: Any) -> Any:
    return await every(
        await now(client.chat.completions.create(model=MODEL, messages=messages, tools=[_CHAT_TOOL], stream=True))
    )


@surface("openai", answer=_PARSED)
async def chat_parse(client: Any, messages: Any) -> Any:
    parse = at(client, "chat.completions.parse", "beta.chat.completions.parse")
    return await now(parse(model=MODEL, messages=messages, response_format=Place))


@surface("openai")
async def chat_stream_helper(client: Any, messages: Any) -> Any:
    helper = at(client, "chat.completions.stream", "beta.chat.completions.stream")
    async with entered(helper(model=MODEL, messages=messages)) as stream:
        events = [event.type for event in await every(stream)]
        return [events, await now(stream.get_final_completion())]


@surface("openai")
async def chat_raw(client: Any, messages: Any) -> Any:
    raw = await now(client.chat.completions.with_raw_response.create(model=MODEL, messages=messages))
    return [raw.status_code, raw.headers["content-type"], raw.content, raw.parse()]


@surface("openai")
async def chat_raw_stream(client: Any, messages: Any) -> Any:
    raw = await now(client.chat.completions.with_raw_response.create(model=MODEL, messages=messages, stream=True))
    return await every(raw.parse())


@surface("openai")
async def chat_streaming_response(client: Any, messages: Any) -> Any:
    streaming = client.chat.completions.with_streaming_response
    async with entered(streaming.create(model=MODEL, messages=messages)) as response:
        return await now(response.parse())


@surface("openai")
async def chat_streaming_response_bytes(client: Any, messages: Any) -> Any:
    streaming = client.chat.completions.with_streaming_response
    async with entered(streaming.create(model=MODEL, messages=messages, stream=True)) as response:
        return b"".join(await every(response.iter_bytes()))


@surface("openai")
async def chat_with_options(client: Any, messages: Any) -> Any:
    other = client.with_options(timeout=30, max_retries=0)
    return await now(other.chat.completions.create(model=MODEL, messages=messages))


@surface("openai")
async def chat_copy(client: Any, messages: Any) -> Any:
    other = client.copy(default_headers={"X-Mine": "1"})
    return await every(await now(other.chat.completions.create(model=MODEL, messages=messages, stream=True)))


@surface("openai", azure=True)
async def azure_chat(client: Any, messages: Any) -> Any:
    return await now(client.chat.completions.create(model="my-deployment", messages=messages))


@surface("openai", azure=True)
async def azure_chat_stream(client: Any, messages: Any) -> Any:
    return await every(await now(client.chat.completions.create(model="my-deployment", messages=messages, stream=True)))


# OpenAI, responses


def as_text() -> Any:
    return QUESTION


def as_items() -> Any:
    return [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi, how can I help?"},
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
    ]


@surface("openai", as_text)
async def responses_create(client: Any, given: Any) -> Any:
    return await now(at(client, "responses").create(model=MODEL, input=given, instructions="Be terse."))


@surface("openai", as_items)
async def responses_create_items(client: Any, given: Any) -> Any:
    return await now(at(client, "responses").create(model=MODEL, input=given))


@surface("openai", as_text)
async def responses_stream(client: Any, given: Any) -> Any:
    return await every(await now(at(client, "responses").create(model=MODEL, input=given, stream=True)))


@surface("openai", as_text)
async def responses_stream_helper(client: Any, given: Any) -> Any:
    async with entered(at(client, "responses.stream")(model=MODEL, input=given)) as stream:
        events = [event.type for event in await every(stream)]
        return [events, await now(stream.get_final_response())]


@surface("openai", as_items, answer=_PARSED)
async def responses_parse(client: Any, given: Any) -> Any:
    return await now(at(client, "responses.parse")(model=MODEL, input=given, text_format=Place))


@surface("openai", as_text, answer=None)
async def responses_tools(client: Any, given: Any) -> Any:
    return await now(at(client, "responses").create(model=MODEL, input=given, tools=[_RESPONSES_TOOL]))


@surface("openai", as_text)
async def responses_raw(client: Any, given: Any) -> Any:
    raw = await now(at(client, "responses").with_raw_response.create(model=MODEL, input=given))
    return raw.parse()


@surface("openai", as_text, azure=True)
async def azure_responses(client: Any, given: Any) -> Any:
    return await now(at(client, "responses").create(model="my-deployment", input=given))


# Anthropic, messages


@surface("anthropic")
async def messages_create(client: Any, messages: Any) -> Any:
    return await now(client.messages.create(model=CLAUDE, max_tokens=100, messages=messages))


@surface("anthropic", long)
async def messages_create_with_history(client: Any, messages: Any) -> Any:
    return await now(client.messages.create(model=CLAUDE, max_tokens=100, messages=messages, system="You are terse."))


@surface("anthropic", in_parts)
async def messages_create_parts(client: Any, messages: Any) -> Any:
    return await now(client.messages.create(model=CLAUDE, max_tokens=100, messages=messages))


@surface("anthropic")
async def messages_create_stream(client: Any, messages: Any) -> Any:
    return await every(await now(client.messages.create(model=CLAUDE, max_tokens=100, messages=messages, stream=True)))


@surface("anthropic")
async def messages_stream(client: Any, messages: Any) -> Any:
    async with entered(client.messages.stream(model=CLAUDE, max_tokens=100, messages=messages)) as stream:
        events = [event.type for event in await every(stream)]
        return [events, await now(stream.get_final_message())]


@surface("anthropic")
async def messages_text_stream(client: Any, messages: Any) -> Any:
    async with entered(client.messages.stream(model=CLAUDE, max_tokens=100, messages=messages)) as stream:
        return "".join(await every(stream.text_stream))


@surface("anthropic", answer=None)
async def messages_tools(client: Any, messages: Any) -> Any:
    return await now(client.messages.create(model=CLAUDE, max_tokens=100, messages=messages, tools=[_CLAUDE_TOOL]))


@surface("anthropic", answer=None)
async def messages_tools_stream(client: Any, messages: Any) -> Any:
    options = {"model": CLAUDE, "max_tokens": 100, "messages": messages, "tools": [_CLAUDE_TOOL]}
    async with entered(client.messages.stream(**options)) as stream:
        return await now(stream.get_final_message())


@surface("anthropic")
async def messages_raw(client: Any, messages: Any) -> Any:
    raw = await now(client.messages.with_raw_response.create(model=CLAUDE, max_tokens=100, messages=messages))
    return [raw.headers["content-type"], await now(raw.parse())]


@surface("anthropic")
async def messages_streaming_response(client: Any, messages: Any) -> Any:
    streaming = client.messages.with_streaming_response
    async with entered(streaming.create(model=CLAUDE, max_tokens=100, messages=messages)) as response:
        return await now(response.parse())


@surface("anthropic")
async def messages_with_options(client: Any, messages: Any) -> Any:
    other = client.with_options(max_retries=1)
    return await now(other.messages.create(model=CLAUDE, max_tokens=100, messages=messages))


@surface("anthropic")
async def beta_messages_create(client: Any, messages: Any) -> Any:
    create = at(client, "beta.messages.create", "beta.prompt_caching.messages.create")
    return await now(create(model=CLAUDE, max_tokens=100, messages=messages))


@surface("anthropic")
async def beta_messages_create_stream(client: Any, messages: Any) -> Any:
    create = at(client, "beta.messages.create", "beta.prompt_caching.messages.create")
    return await every(await now(create(model=CLAUDE, max_tokens=100, messages=messages, stream=True)))


@surface("anthropic")
async def beta_messages_stream(client: Any, messages: Any) -> Any:
    helper = at(client, "beta.messages.stream", "beta.prompt_caching.messages.stream")
    async with entered(helper(model=CLAUDE, max_tokens=100, messages=messages)) as stream:
        return await now(stream.get_final_message())


@surface("anthropic", answer='{"city": "Paris", "people": 3}')
async def messages_parse(client: Any, messages: Any) -> Any:
    parse = at(client, "messages.parse", "beta.messages.parse")
    return await now(parse(model=CLAUDE, max_tokens=100, messages=messages, output_format=Place))


def client_for(surface: Surface, asynchronous: bool, url: str) -> Any:
    """A client of the kind that a surface takes, led to a double at `url`."""
    if surface.provider == "anthropic":
        kind = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
        return kind(base_url=url, api_key="sk-ant-double")
    if surface.azure:
        azure = openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
        return azure(azure_endpoint=url, api_key="azure-double", api_version="2024-10-21")
    kind_of = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return kind_of(base_url=f"{url}/v1", api_key="sk-double")
