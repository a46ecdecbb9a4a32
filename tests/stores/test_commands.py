"""Calls for many topics: split where one would keep the server busy, together where each alone would take a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import pytest

from broker import sse
from broker.stores.redis.commands import TOPICS_PER_CALL
from broker.stores.redis.scripts import Script
from tests.support.redis_servers import Server
from tests.support.store_harness import RecordingOwner, RedisStoreHarness


class Calls:
    """The pipeline of a store, watched: the calls by script, and the most that were waiting at once."""

    def __init__(self, harness: RedisStoreHarness) -> None:
        commands = harness.store.topics
        self._pipeline = commands._calls
        self.keys: dict[str, list[int]] = {}
        self.most_waiting = 0
        self._waiting = 0
        commands._calls = commands._writes = self  # type: ignore[assignment]

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], **options: Any
    ) -> Awaitable[Any]:
        self.keys.setdefault(script.name, []).append(len(keys))
        self._waiting += 1
        self.most_waiting = max(self.most_waiting, self._waiting)
        reply = self._pipeline.call(script, keys, args, **options)
        assert isinstance(reply, asyncio.Future)
        reply.add_done_callback(self._done)
        return reply

    def _done(self, _reply: asyncio.Future[Any]) -> None:
        self._waiting -= 1


@pytest.fixture
async def harness(empty_server: Server) -> AsyncIterator[RedisStoreHarness]:
    harness = RedisStoreHarness(empty_server, max_topics=10_000)
    await harness.store.start(RecordingOwner())
    yield harness
    await harness.store.stop()
    harness.close()


async def test_many_topics_are_described_by_several_calls(harness: RedisStoreHarness) -> None:
    topics = [f"t{number}" for number in range(2 * TOPICS_PER_CALL + 1)]
    calls = Calls(harness)
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
    calls = Calls(harness)
    await harness.store.topics.close_abandoned()
    assert all(state.closed for state in await harness.store.topics.describe(topics))
    assert calls.most_waiting == len(topics)
