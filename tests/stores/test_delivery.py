"""Reading pauses while the fan-out is behind: the instance's memory is bounded (I4)."""

from __future__ import annotations

import asyncio
from time import time

import pytest

from broker.fanout import fanout, feed_table
from broker.settings import Settings
from broker.stores.redis.link import READ_BYTES
from tests.stores.conftest import StartServer
from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Server
from tests.support.waiting import until

EVENTS, EVENT_BYTES, BATCH = 400, 10_000, 20
SUBSCRIBERS = 40
BACKLOG_BYTES = 500_000


async def test_i4_reading_waits_for_the_fan_out(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = start_server()
    settings = Settings(redis_url=redis.url, retention_bytes=2 * EVENTS * EVENT_BYTES)
    one, other = Server(settings, time), Server(settings, time)
    await one.start()
    await other.start()
    try:
        streams = [await other.subscribe("/topics/a") for _ in range(SUBSCRIBERS)]
        for module in (fanout, feed_table):
            monkeypatch.setattr(module, "MAX_BYTES", BACKLOG_BYTES)
        most = 0
        done = asyncio.Event()

        async def look() -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, other.node.streams.hub.feeds.backlog)
                await asyncio.sleep(0)

        looking = asyncio.ensure_future(look())
        lines = b"".join(b'{"data": "%d %s"}\n' % (number, b"x" * EVENT_BYTES) for number in range(EVENTS))
        monkeypatch.setattr(fanout, "WRITES_PER_TURN", 0)
        publishing = asyncio.ensure_future(
            one.request("POST", "/topics/a", lines, Content_Type="application/x-ndjson")
        )
        flowing = other.node._store._delivery.flowing  # type: ignore[attr-defined]
        await until(lambda: not flowing.is_set(), "reading pauses")
        monkeypatch.setattr(fanout, "WRITES_PER_TURN", 2)
        assert (await publishing).status == 200
        await asyncio.gather(*(whole(stream) for stream in streams))
        done.set()
        await looking
        at_once = BACKLOG_BYTES + 2 * READ_BYTES  # a read before the pause, and a payload that had begun
        assert most <= at_once < EVENTS * EVENT_BYTES / 3
        assert await ready(other)
    finally:
        await one.stop()
        await other.stop()


async def whole(stream: AsyncStream) -> None:
    data = await stream.data(EVENTS)
    assert [text.split()[0] for text in data] == [str(number) for number in range(EVENTS)]
    assert len(stream.events) == EVENTS + 1, "and broker.open"


async def ready(broker: Server) -> bool:
    return (await broker.request("GET", "/readyz")).status == 200
