"""Fixtures of all tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from double import Double
from support import environment

# The frameworks have a virtual environment of their own, in which nothing else is tested.
collect_ignore_glob = ["test_frameworks.py"]
if importlib.util.find_spec("langchain_openai") is not None:
    collect_ignore_glob = [f"test_{name}*.py" for name in ("a", "c", "d", "e", "m", "p", "s")]


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder that programs run in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def env(home: Path, double: Double) -> dict[str, str]:
    """The environment of a program whose providers are the double, and whose home is its own."""
    return environment(home, double.environment)
