"""The web layer's tests run on the front, and with CI=true on plain aiohttp too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.local_broker import Clock, Serve, serving


@pytest.fixture(params=["front", pytest.param("aiohttp", marks=pytest.mark.slow)])
async def serve(clock: Clock, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """Starts brokers with the settings given; they share the test's clock."""
    async with serving(clock, by_aiohttp=request.param == "aiohttp") as start:
        yield start
