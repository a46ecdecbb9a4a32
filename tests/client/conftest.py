"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.client import Client
from tests.support.broker_process import BrokerProcess


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[Client]:
    """A client of the fixture's broker."""
    async with Client(broker.url) as client:
        yield client
