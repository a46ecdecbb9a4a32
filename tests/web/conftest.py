"""The web layer's tests run on the front, and with CI=true on plain aiohttp too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.settings import Settings
from tests.support.local_broker import Clock, Serve, Server


@pytest.fixture(params=["front", pytest.param("aiohttp", marks=pytest.mark.slow)])
async def serve(clock: Clock, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """Starts brokers with the settings given; they share the test's clock."""
    servers: list[Server] = []

    async def start(**settings: object) -> Server:
        server = Server(Settings.model_validate(settings), clock, by_aiohttp=request.param == "aiohttp")
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()
