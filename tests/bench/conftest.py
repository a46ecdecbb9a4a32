"""Fixtures of the load generator's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer

from tests.bench.small_server import SmallServer


@pytest.fixture
def small() -> SmallServer:
    return SmallServer()


@pytest.fixture
async def small_url(small: SmallServer) -> AsyncIterator[str]:
    """The URL of the server, without a path."""
    async with TestServer(small.app()) as server:
        yield str(server.make_url("/"))


@pytest.fixture
def url(small_url: str) -> str:
    """The URL of a topic, with the placeholder."""
    return small_url + "topics/t{n}"
