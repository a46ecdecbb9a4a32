"""Calls for many topics: split where one would keep the server busy, together where each alone would take a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import sse
from broker.stores.redis.commands import BEHIND_BYTES, TOPICS_PER_CALL
from tests.stores.watched_calls import WatchedCalls
from tests.support.redis_servers import Server
from tests.support.store_harness import RecordingOwner, RedisStoreHarness


def watch_calls(harness: RedisStoreHarness) -> WatchedCalls:
    commands = harness.store.topics
    calls = WatchedCalls(commands._calls)
    commands._calls = commands._writes = calls  # type: ignore[assignment]
    return calls


@pytest.fixture
async def harness(empty_server: Server) -> AsyncIterator[RedisStoreHarness]:
    harness = RedisStoreHarness(empty_server, max_topics=10_000)
    await harness.store.start(RecordingOwner())
    yield harness
    await harness.store.stop()
    harness.close()


async def test_many_topics_are_described_by_several_calls(harness: RedisStoreHarness) -> None:
    topics = [f"t{number}" for number in range(2 * TOPICS_PER_CALL + 1)]
    calls = watch_calls(harness)
    for topic in topics[::50]:
        await harness.store.topics.publish([(topic, sse.lines(b"x"))] * 2)
    states = await harness.store.topics.describe(topics)
    assert [state.topic for state in states] == topics
    assert [state.events for state in states] == [
        2 if number % 50 == 0 else 0 for number in range(len(topics))
    ]
    assert calls.keys["describe"] == [2 * TOPICS_PER_CALL + 1] * 2 + [3]
    assert await harness.store.topics.describe([]) == []


async def test_abandoned_topics_are_closed_together(harness: RedisStoreHarness) -> None:
    topics = [f"t{number}" for number in range(30)]
    for topic in topics:
        await harness.store.topics.lease(topic, 10)
    harness.advance(11)
    calls = watch_calls(harness)
    await harness.store.topics.close_abandoned()
    assert all(state.closed for state in await harness.store.topics.describe(topics))
    assert calls.most_waiting == len(topics)


async def test_it_is_behind_while_many_bytes_wait_for_the_server(harness: RedisStoreHarness) -> None:
    topics, lines = harness.store.topics, sse.lines(b"x" * 250_000)
    count = BEHIND_BYTES // len(lines) + 1
    publishing = [asyncio.ensure_future(topics.publish([("a", lines)])) for _ in range(count)]
    assert not topics.is_behind
    await asyncio.sleep(0)
    assert topics.is_behind
    await asyncio.gather(*publishing)
    assert not topics.is_behind
