"""Settings: keywords first, then `MEMORI_*` of the environment, then defaults. What was read is a `Settings`; what the core is
opened with is made of it and of the place where memory lives."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ._errors import ConfigurationError

T = TypeVar("T")

DEFAULT_API_URL = "http://127.0.0.1:7700"

_EXTRACTORS = ("builtin", "llm")
_EMBEDDINGS = ("builtin", "none", "openai")
_ON_QUOTA = ("pass", "raise")


@dataclass(frozen=True)
class Settings:
    """What the user asked for. None leaves a default to the core."""

    api_key: str | None = field(default=None, repr=False)
    api_url: str | None = None
    data_dir: str | None = None
    recall_deadline_ms: int | None = None
    token_budget: int | None = None
    recall_limit: int | None = None
    queue_events: int | None = None
    queue_bytes: int | None = None
    spool_max_bytes: int | None = None
    unreachable_after_ms: int | None = None
    exit_deadline_ms: int = 5000
    on_quota: str = "pass"
    extractor: Mapping[str, Any] | None = field(default=None, repr=False)
    embedding: Mapping[str, Any] | None = field(default=None, repr=False)


def read(
    *,
    api_key: str | None,
    api_url: str | None,
    data_dir: str | os.PathLike[str] | None,
    recall_deadline_ms: int | None,
    token_budget: int | None,
    recall_limit: int | None,
    queue_events: int | None,
    queue_bytes: int | None,
    spool_max_bytes: int | None,
    unreachable_after_ms: int | None,
    exit_deadline_ms: int | None,
    on_quota: str | None,
    extractor: str | Mapping[str, Any] | None,
    embedding: str | Mapping[str, Any] | None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Reads and validates; `ConfigurationError` names the setting that is wrong and what it may be."""
    env = os.environ if environ is None else environ
    whole = _Whole(env)
    chosen = _chosen("on_quota", on_quota, env.get("MEMORI_ON_QUOTA"), "pass", _ON_QUOTA)
    directory = data_dir if data_dir is not None else env.get("MEMORI_DATA_DIR") or None
    return Settings(
        api_key=api_key or env.get("MEMORI_API_KEY") or None,
        api_url=_url("api_url", api_url or env.get("MEMORI_API_URL") or None),
        data_dir=None if directory is None else os.path.abspath(os.path.expanduser(os.fspath(directory))),
        recall_deadline_ms=whole("recall_deadline_ms", recall_deadline_ms, 1, 60_000),
        token_budget=whole("token_budget", token_budget, 0, 1_000_000),
        recall_limit=whole("recall_limit", recall_limit, 1, 1_000),
        queue_events=whole("queue_events", queue_events, 1, 10_000_000),
        queue_bytes=whole("queue_bytes", queue_bytes, 1 << 20, 1 << 40),
        unreachable_after_ms=whole("unreachable_after_ms", unreachable_after_ms, 1, 3_600_000),
        exit_deadline_ms=_or(whole("exit_deadline_ms", exit_deadline_ms, 0, 600_000), 5000),
        on_quota=chosen,
        extractor=_endpoint("extractor", extractor, env, _EXTRACTORS, ("base_url", "api_key", "model")),
        embedding=_endpoint(
            "embedding", embedding, env, _EMBEDDINGS, ("base_url", "api_key", "model", "model_dir", "weights_dir", "dimensions")
        ),
        spool_max_bytes=whole("spool_max_bytes", spool_max_bytes, 1 << 20, 1 << 50),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


class _Whole:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def __call__(self, name: str, given: int | None, lowest: int, highest: int) -> int | None:
        value: Any = given
        if value is None:
            variable = f"MEMORI_{name.upper()}"
            text = self._env.get(variable)
            if not text:
                return None
            name = variable
            try:
                value = int(text)
            except ValueError:
                value = text
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ConfigurationError(f"{name} is a whole number from {lowest} to {highest}, not {value!r}")
        return value


def _chosen(name: str, given: str | None, variable: str | None, default: str, allowed: tuple[str, ...]) -> str:
    value = given or variable or default
    if value not in allowed:
        raise ConfigurationError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
    return value


def _url(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise ConfigurationError(f"{name} is an address that begins with http:// or https://")
    return value.rstrip("/")


def _endpoint(
    name: str,
    given: str | Mapping[str, Any] | None,
    env: Mapping[str, str],
    kinds: tuple[str, ...],
    keys: tuple[str, ...],
) -> Mapping[str, Any] | None:
    prefix = f"MEMORI_{name.upper()}"
    read: dict[str, Any] = {key: env[f"{prefix}_{key.upper()}"] for key in keys if env.get(f"{prefix}_{key.upper()}")}
    kind = env.get(prefix) or env.get(f"{prefix}_KIND")
    if kind:
        read["kind"] = kind
    if isinstance(given, str):
        read["kind"] = given
    elif given is not None:
        unknown = sorted(set(given) - {"kind", *keys})
        if unknown:
            raise ConfigurationError(f"{name} has no {', '.join(unknown)}; it has kind, {', '.join(keys)}")
        read.update({key: value for key, value in given.items() if value is not None})
    if not read:
        return None
    # Naming an endpoint is asking for it.
    read.setdefault("kind", kinds[-1] if "base_url" in read or "model" in read else kinds[0])
    if read["kind"] not in kinds:
        raise ConfigurationError(f"{name}'s kind is one of {', '.join(kinds)}, not {read['kind']!r}")
    for key, value in read.items():
        if key == "dimensions":
            if not str(value).isdigit():
                raise ConfigurationError(f"{name}'s dimensions is a whole number, not {value!r}")
            read[key] = int(value)
            continue
        if not isinstance(value, (str, os.PathLike)):
            raise ConfigurationError(f"{name}'s {key} is text, not {type(value).__name__}")
        read[key] = os.fspath(value)
    return read


def user_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """`memori-stream` in the user's data folder: the folder that `memori up` takes too."""
    env = os.environ if environ is None else environ
    given = env.get("XDG_DATA_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "memori-stream"
    home = env.get("HOME")
    if sys.platform == "win32":
        base = Path(env.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif home:
        base = Path(home) / ".local" / "share"
    else:
        base = Path.cwd()
    return base / "memori-stream"


def folder_for(settings: Settings, identity: str) -> str:
    """The folder of one target (spool, instance): what is spooled for one database or platform never reaches another."""
    base = Path(settings.data_dir) if settings.data_dir is not None else user_data_dir()
    name = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    chosen = base / "sdk" / name
    try:
        make_private(chosen)
    except OSError:
        if settings.data_dir is not None:
            raise ConfigurationError(f"data_dir {base} cannot be written to; choose another folder") from None
        # A user without a home (a container's) still gets a spool, for as long as the machine keeps its temporary files.
        chosen = _temporary() / name
        make_private(chosen)
    return str(chosen)


def make_private(folder: Path) -> None:
    """Makes a folder, and what is missing above it, that nobody else reads: conversations lie in it."""
    if folder.is_dir():
        return
    for missing in reversed([folder, *folder.parents]):
        try:
            missing.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError:
            if not missing.is_dir():
                raise
    if not folder.is_dir():
        raise NotADirectoryError(str(folder))


def _temporary() -> Path:
    """This user's folder among the temporary ones. Anybody may have made one of that name before: such a one is not taken."""
    known = Path(tempfile.gettempdir()) / f"memori-stream-{_user()}"
    try:
        known.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError:
        raise ConfigurationError("there is no folder to spool in: set data_dir to one that can be written to") from None
    found = known.lstat()
    mine = getattr(os, "getuid", lambda: found.st_uid)() == found.st_uid
    if stat.S_ISDIR(found.st_mode) and mine and (os.name == "nt" or not found.st_mode & 0o077):
        return known
    fresh = tempfile.mkdtemp(prefix=f"memori-stream-{_user()}-")
    warnings.warn(
        f"{known} is not this user's alone, so memory spools in {fresh}, where the next process does not look; set data_dir",
        stacklevel=6,
    )
    return Path(fresh)


def _user() -> str:
    getuid: Callable[[], int] | None = getattr(os, "getuid", None)
    return str(getuid()) if getuid is not None else "user"
