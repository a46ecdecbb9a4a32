"""Fixtures that all tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tests.processes import BrokerProcess


@pytest.fixture
def broker() -> Iterator[BrokerProcess]:
    """A fresh broker in its own process, with the settings as they come."""
    with BrokerProcess() as process:
        yield process


@pytest.fixture
def broker_url(broker: BrokerProcess) -> str:
    """Its address."""
    return broker.url


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the broker runs on."""
    return {"uvloop": uvloop.new_event_loop}
