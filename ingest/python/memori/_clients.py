"""From what a user registers to the HTTP clients inside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._errors import UnsupportedLLMProviderError
from ._hook import Hook, hooked

SUPPORTED = (
    "supported are the clients of openai (OpenAI, AsyncOpenAI, AzureOpenAI, AsyncAzureOpenAI) and anthropic (Anthropic, "
    "AsyncAnthropic), and what holds one of them: LangChain's chat models, Pydantic AI's models and providers, LiteLLM's handlers"
)

# Where SDKs and frameworks keep their client, the SDK's own first.
_ATTRIBUTES = (
    "_client",
    "client",
    "async_client",
    "root_client",
    "root_async_client",
    "_async_client",
    "model",
    "provider",
    "_provider",
)
_DEPTH = 4


def register(client: Any) -> list[Hook]:
    """Hooks every HTTP client that `client` sends through, each once."""
    hooks = list(_hook_all(client))
    if not hooks:
        kind = type(client)
        raise UnsupportedLLMProviderError(
            f"{kind.__module__}.{kind.__qualname__} holds no HTTP client that is known here; {SUPPORTED}"
        )
    return hooks


def _hook_all(client: Any) -> Iterator[Hook]:
    seen: set[int] = set()
    found: set[int] = set()
    level = [client]
    for _ in range(_DEPTH):
        deeper: list[Any] = []
        for holder in level:
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            for name in _ATTRIBUTES:
                value = _held(holder, name)
                if value is None:
                    continue
                put = hooked(value)
                if put is None:
                    deeper.append(value)
                    continue
                copy, hook = put
                if copy is not value:
                    _put(holder, name, copy)
                if id(hook) not in found:
                    found.add(id(hook))
                    yield hook
        level = deeper


def _put(holder: Any, name: str, copy: Any) -> None:
    try:
        setattr(holder, name, copy)
    except Exception as error:
        kind = type(holder)
        raise UnsupportedLLMProviderError(
            f"{kind.__module__}.{kind.__qualname__} does not let its {name} be replaced ({type(error).__name__}); {SUPPORTED}"
        ) from error


def _held(holder: Any, name: str) -> Any | None:
    if isinstance(holder, (str, bytes, int, float, bool, list, tuple, dict, set, type)):
        return None
    try:
        return getattr(holder, name, None)
    except Exception:
        return None
