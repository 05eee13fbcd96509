"""Fixtures of all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from double import Double
from support import environment


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
