"""Every client of the table returns each event before the next one is published.

How long each takes is printed: `pytest tests/live/test_clients.py -rP`.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

import pytest
from playwright.async_api import Page

from tests.live.clients import CLIENTS
from tests.live.event_source import Follower, Received
from tests.support.broker_process import BrokerProcess
from tests.support.waiting import WAIT_SECONDS, wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's

EVENTS = 50


async def returned(source: Follower, text: str) -> Received:
    """The event that says `text`, once the client has returned it."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := [each for each in await source.events() if each.data == text]):
            await asyncio.sleep(0.005)
    (event,) = found
    return event


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_each_event_arrives_before_the_next_is_published(
    client: str, runs_in: Page | str | None, broker: BrokerProcess
) -> None:
    """A client that holds back bytes would never return the event."""
    topic = CLIENTS[client].package.replace("/", ".").strip("@") or "chromium"
    delays = []
    async with CLIENTS[client].open(runs_in, f"{broker.url}/topics/{topic}", ()) as source:
        await asyncio.to_thread(
            wait_for, lambda: broker.metric("broker_subscribers") == 1, "the client to be there"
        )
        for number in range(EVENTS):
            kind, data = CLIENTS[client].event(f"event {number}")
            published_at = 1000 * time.time()
            await asyncio.to_thread(broker.publish, topic, data, **({"event": kind} if kind else {}))
            delays.append((await returned(source, f"event {number}")).at - published_at)
        await asyncio.to_thread(broker.publish, topic, "", end="true")
    version = CLIENTS[client].version(runs_in)
    print(f"{client} {version}: median {median(delays):.1f} ms, longest {max(delays):.1f} ms")
