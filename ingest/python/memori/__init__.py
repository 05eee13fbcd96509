"""Memory for chatbots: register the client that you already have, and it remembers whom it talks to.

mem = Memori().llm.register(client)
mem.attribution(entity_id="user_123", process_id="support_bot")
"""

from __future__ import annotations

from ._augmentation import Failure
from ._context import Attribution
from ._errors import (
    AttributionError,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    MemoriError,
    QuotaExceededError,
    RecallError,
    StorageError,
    UnsupportedDatabaseError,
    UnsupportedLLMProviderError,
)
from ._facts import Fact, Facts, Message, Source
from ._memori import Memori

__all__ = [
    "Attribution",
    "AttributionError",
    "AuthenticationError",
    "ConfigurationError",
    "Fact",
    "Facts",
    "Failure",
    "InvalidRequestError",
    "Memori",
    "MemoriError",
    "Message",
    "QuotaExceededError",
    "RecallError",
    "Source",
    "StorageError",
    "UnsupportedDatabaseError",
    "UnsupportedLLMProviderError",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from ._core import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
