"""What this package raises. Every class is a `MemoriError`; none of them is ever raised out of a call to a model, except
`QuotaExceededError` where `on_quota="raise"` asks for it."""

from __future__ import annotations


class MemoriError(Exception):
    """The root of all errors of this package."""


class ConfigurationError(MemoriError, ValueError):
    """A setting, by keyword or from the environment, that cannot be right."""


class AttributionError(MemoriError, ValueError):
    """There is nobody whose memory this could be, or the name that was given cannot be one."""


class InvalidRequestError(MemoriError, ValueError):
    """An argument that the memory refuses: a limit out of range, messages that are none."""


class AuthenticationError(MemoriError):
    """The platform does not know the API key, or the key lacks the right."""


class QuotaExceededError(MemoriError):
    """The memory's quota is used up. The model's answer is never refused for it unless `on_quota="raise"` is set."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageError(MemoriError):
    """The memory could not be written to, or its tables not be made."""


class RecallError(MemoriError):
    """The memory could not be read within the time."""


class UnsupportedDatabaseError(MemoriError):
    """`conn` is no connection to a database that memory can live in."""


class UnsupportedLLMProviderError(MemoriError):
    """What was registered holds no HTTP client that is known here."""
