"""A broker in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from broker.settings import Settings
from tests.web.serving import Clock, Server

Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def serve(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Starts brokers with the settings given; they share the test's clock."""
    servers: list[Server] = []

    async def start(**settings: object) -> Server:
        server = Server(Settings.model_validate(settings), clock)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def server(serve: Serve) -> Server:
    """One with the settings as they come."""
    return await serve()
