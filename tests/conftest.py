"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
