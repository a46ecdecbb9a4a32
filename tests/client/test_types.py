"""The values of a subscription."""

from __future__ import annotations

from collections.abc import AsyncIterator

from broker.client import Gap, Subscription
from broker.client.types import StartOptions
from broker.events import Event


def test_a_duration_grows_until_the_first_event() -> None:
    assert StartOptions(since="10m").query(0.5) == {"since": "10m"}
    assert StartOptions(since="10m").query(2.5) == {"since": "603s"}
    assert StartOptions(since="earliest").query(100) == {"since": "earliest"}
    assert StartOptions(last=3).query(100) == {"last": "3"}
    assert StartOptions().query(100) == {}


def test_gap_is_an_event_and_subscription_an_iterator() -> None:
    assert issubclass(Gap, Event)
    assert issubclass(Subscription, AsyncIterator)
