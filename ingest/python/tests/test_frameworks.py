"""Frameworks over a registered client: captured and injected, and what they give back is what they would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from memori import Memori

from double import Double
from support import exported

QUESTION = "Where do I live?"
ANSWER = f"You said: {QUESTION}"

# LangChain keeps its asynchronous connections beyond a loop's end: all of its calls are on one loop.
_LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module")
def provider() -> Iterator[Double]:
    with Double() as double:
        yield double


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture
def mem(data_dir: Path, request: pytest.FixtureRequest) -> Memori:
    mem = Memori(data_dir=data_dir, embedding="none", recall_deadline_ms=5000)
    mem.attribution(entity_id=request.node.name, process_id="frameworks")
    mem.capture([{"role": "user", "content": "I live in Lisbon."}])
    assert mem.augmentation.wait(30), mem.augmentation.failures()
    return mem


# LangChain


def _langchain(provider: Double) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="gpt-4o-mini", base_url=provider.openai_url, api_key="k")  # type: ignore[arg-type]


def _langchain_anthropic(provider: Double) -> Any:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model="claude-3-5-sonnet-20241022", base_url=provider.url, api_key="k")  # type: ignore[call-arg,arg-type]


def langchain_invoke(provider: Double, register: Callable[[Any], None]) -> Any:
    model = _langchain(provider)
    register(model)
    answer = model.invoke(QUESTION)
    return type(answer).__name__, answer.content, answer.usage_metadata


def langchain_ainvoke(provider: Double, register: Callable[[Any], None]) -> Any:
    async def main() -> Any:
        model = _langchain(provider)
        register(model)
        answer = await model.ainvoke([("system", "Be terse."), ("human", QUESTION)])
        return type(answer).__name__, answer.content

    return _LOOP.run_until_complete(main())


def langchain_stream(provider: Double, register: Callable[[Any], None]) -> Any:
    model = _langchain(provider)
    register(model)
    return [(type(chunk).__name__, chunk.content) for chunk in model.stream(QUESTION)]


def langchain_astream(provider: Double, register: Callable[[Any], None]) -> Any:
    async def main() -> Any:
        model = _langchain(provider)
        register(model)
        return [chunk.content async for chunk in model.astream(QUESTION)]

    return _LOOP.run_until_complete(main())


def langchain_root_client(provider: Double, register: Callable[[Any], None]) -> Any:
    model = _langchain(provider)
    register(model.root_client)
    return model.invoke(QUESTION).content


def langchain_responses(provider: Double, register: Callable[[Any], None]) -> Any:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="gpt-4o-mini", base_url=provider.openai_url, api_key="k", use_responses_api=True)  # type: ignore[arg-type]
    register(model)
    return model.invoke(QUESTION).text


def langchain_anthropic_invoke(provider: Double, register: Callable[[Any], None]) -> Any:
    model = _langchain_anthropic(provider)
    register(model)
    answer = model.invoke(QUESTION)
    return type(answer).__name__, answer.content


def langchain_anthropic_astream(provider: Double, register: Callable[[Any], None]) -> Any:
    async def main() -> Any:
        model = _langchain_anthropic(provider)
        register(model)
        return "".join([chunk.text async for chunk in model.astream(QUESTION)])

    return _LOOP.run_until_complete(main())


# LiteLLM


def litellm_completion(provider: Double, register: Callable[[Any], None]) -> Any:
    import litellm

    client = openai.OpenAI(base_url=provider.openai_url, api_key="k")
    register(client)
    answer = litellm.completion("openai/gpt-4o-mini", messages=[{"role": "user", "content": QUESTION}], client=client)
    return type(answer).__name__, answer.choices[0].message.content


def litellm_acompletion(provider: Double, register: Callable[[Any], None]) -> Any:
    import litellm

    async def main() -> Any:
        client = openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k")
        register(client)
        answer = await litellm.acompletion(
            "openai/gpt-4o-mini", messages=[{"role": "user", "content": QUESTION}], client=client
        )
        return type(answer).__name__, answer.choices[0].message.content

    return _LOOP.run_until_complete(main())


def litellm_stream(provider: Double, register: Callable[[Any], None]) -> Any:
    import litellm

    client = openai.OpenAI(base_url=provider.openai_url, api_key="k")
    register(client)
    messages = [{"role": "user", "content": QUESTION}]
    stream = litellm.completion("openai/gpt-4o-mini", messages=messages, client=client, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def litellm_handler(provider: Double, register: Callable[[Any], None]) -> Any:
    import litellm
    from litellm.llms.custom_httpx.http_handler import HTTPHandler

    handler = HTTPHandler()
    register(handler)
    answer = litellm.completion(
        "anthropic/claude-3-5-sonnet-20241022",
        messages=[{"role": "user", "content": QUESTION}],
        api_base=provider.url,
        api_key="k",
        max_tokens=100,
        client=handler,
    )
    return type(answer).__name__, answer.choices[0].message.content


# Pydantic AI


def _pydantic_ai(provider: Double, client: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return Agent(OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=client)))


def pydantic_ai_run(provider: Double, register: Callable[[Any], None]) -> Any:
    client = openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k")
    register(client)
    result = _pydantic_ai(provider, client).run_sync(QUESTION)
    return type(result).__name__, result.output


def pydantic_ai_model(provider: Double, register: Callable[[Any], None]) -> Any:
    agent = _pydantic_ai(provider, openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k"))
    register(agent.model)
    return agent.run_sync(QUESTION).output


def pydantic_ai_stream(provider: Double, register: Callable[[Any], None]) -> Any:
    async def main() -> Any:
        client = openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k")
        register(client)
        async with _pydantic_ai(provider, client).run_stream(QUESTION) as result:
            return [text async for text in result.stream_text(delta=True)][-1:] and await result.get_output()

    return _LOOP.run_until_complete(main())


def pydantic_ai_anthropic(provider: Double, register: Callable[[Any], None]) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = anthropic.AsyncAnthropic(base_url=provider.url, api_key="k")
    register(client)
    agent = Agent(AnthropicModel("claude-3-5-sonnet-20241022", provider=AnthropicProvider(anthropic_client=client)))
    return agent.run_sync(QUESTION).output


_FRAMEWORKS = [
    langchain_invoke,
    langchain_ainvoke,
    langchain_stream,
    langchain_astream,
    langchain_root_client,
    langchain_responses,
    langchain_anthropic_invoke,
    langchain_anthropic_astream,
    litellm_completion,
    litellm_acompletion,
    litellm_stream,
    litellm_handler,
    pydantic_ai_run,
    pydantic_ai_model,
    pydantic_ai_stream,
    pydantic_ai_anthropic,
]


@pytest.mark.parametrize("framework", _FRAMEWORKS, ids=lambda framework: framework.__name__)
def test_captured_and_injected_and_the_same_for_the_caller(framework: Any, provider: Double, mem: Memori) -> None:
    provider.clear()
    plain = framework(provider, lambda _: None)
    (before,) = provider.requests
    provider.clear()
    assert framework(provider, lambda client: mem.llm.register(client) and None) == plain
    (sent,) = provider.requests
    assert before.body.count(b"<memori_context>") == 0
    assert sent.body.count(b"<memori_context>") == 1
    assert b"Lisbon" in sent.body
    assert mem.augmentation.wait(30), mem.augmentation.failures()
    said = json.dumps([message["content"] for message in exported(mem)])
    assert said.count(json.dumps(QUESTION)) == 1
    assert ANSWER in said
    assert "memori_context" not in said


def test_an_agent_that_calls_a_tool_is_remembered_with_it(provider: Double, mem: Memori) -> None:
    provider.clear()
    client = openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k")
    mem.llm.register(client)
    agent = _pydantic_ai(provider, client)

    @agent.tool_plain
    def look_up(city: str) -> str:
        """Looks a city up."""
        return f"{city} has trams."

    agent.run_sync(QUESTION)
    first, second = provider.requests
    assert second.body.startswith(first.body[: first.body.index(b"<memori_context>")]), "the provider's cache stays warm"
    assert mem.augmentation.wait(30), mem.augmentation.failures()
    said = json.dumps([(message["role"], message["content"]) for message in exported(mem)])
    assert said.count(QUESTION) <= 2, "the question, and the double's echo of it"
    assert "look_up" in said
    assert "Paris has trams." in said
