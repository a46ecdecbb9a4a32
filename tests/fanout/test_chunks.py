"""The chunks of a stream's body: one around what each write carries, and the last one only where the stream is complete."""

from __future__ import annotations

import asyncio

import pytest

from broker import sse
from broker.fanout.chunks import LAST_CHUNK, as_chunk
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from broker.topics import Retention
from tests.support.hub_harness import HubHarness
from tests.support.waiting import WAIT_SECONDS

WIRE = 1 << 20


def frame(data: bytes, number: int) -> bytes:
    return sse.frame(sse.lines(data), number)


async def end_of(harness: HubHarness, subscriber: Subscriber) -> bytes:
    """Read until the connection is gone; the body since the last read."""
    data = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            data += harness.read(subscriber)
            harness.hub.sweep()
            harness.run()
            await asyncio.sleep(0)
    return data + harness.read(subscriber)


async def test_what_a_write_carries_is_a_chunk(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.publish("a", b"1")
    harness.publish("a", b"2")
    harness.run()
    assert harness.receive(subscriber, WIRE) == as_chunk(frame(b"1", 1) + frame(b"2", 2))
    harness.hub.send_control(subscriber, b"event: broker.cancel\ndata: {}\n\n")
    assert harness.receive(subscriber, WIRE) == b"1f\r\nevent: broker.cancel\ndata: {}\n\n\r\n"
    harness.now += 15
    harness.hub.sweep()
    assert harness.receive(subscriber, WIRE) == b"2\r\n:\n\r\n"
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    assert harness.receive(subscriber, WIRE) == b"9\r\nretry: 1\n\r\n0\r\n\r\n"


async def test_http_1_0_has_no_chunks(harness: HubHarness) -> None:
    """Also not where another reader of the same events has them."""
    old = await harness.subscribe("a", chunked=False)
    new = await harness.subscribe("a")
    harness.publish("a", b"1")
    harness.run()
    assert harness.receive(old, WIRE) == frame(b"1", 1)
    assert harness.receive(new, WIRE) == as_chunk(frame(b"1", 1))
    harness.now += 15
    harness.hub.sweep()
    assert harness.receive(old, WIRE) == sse.HEARTBEAT
    harness.hub.finish(old, CloseReason.DRAINING, sse.retry(1))
    assert harness.receive(old, WIRE) == sse.retry(1)


async def test_a_lagging_subscriber_gets_whole_chunks_in_order(harness: HubHarness) -> None:
    """The rest of a chunk, then a control event, then the chunks that it lacked."""
    subscriber = await harness.subscribe("a")
    expected = b""
    while subscriber.lag is None:
        harness.publish("a", b"x" * 5000)
        harness.run()
        expected += frame(b"x" * 5000, harness.last)
    harness.hub.send_control(subscriber, b"event: broker.cancel\ndata: {}\n\n")
    for _ in range(20):
        harness.publish("a", b"y" * 5000)
        harness.run()
    body = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while subscriber.lag is not None or subscriber.cursor != harness.last:
            body += harness.read(subscriber)
            harness.run()
            await asyncio.sleep(0)
    body += harness.read(subscriber)
    assert body.startswith(expected + b"event: broker.cancel\n")
    assert body.count(b"y" * 5000) == 20


@pytest.mark.parametrize("is_lagging", [False, True])
@pytest.mark.parametrize(
    "reason", [CloseReason.DRAINING, CloseReason.MAX_AGE, CloseReason.EXPIRED, CloseReason.DISCONNECTED]
)
async def test_a_stream_that_the_broker_ends_is_complete(
    harness: HubHarness, reason: CloseReason, is_lagging: bool
) -> None:
    subscriber = await harness.subscribe("a")
    harness.publish("a", b"x" * (200_000 if is_lagging else 1))
    harness.run()
    assert (subscriber.lag is not None) == is_lagging
    harness.hub.finish(subscriber, reason, sse.retry(1))
    assert (await end_of(harness, subscriber)).endswith(b"\n\nretry: 1\n")
    assert harness.is_complete(subscriber)


@pytest.mark.parametrize("starts_behind", [False, True])
async def test_a_stream_whose_topics_have_ended_is_complete(harness: HubHarness, starts_behind: bool) -> None:
    subscriber = None if starts_behind else await harness.subscribe("a", "b")
    harness.close("a")
    harness.run()
    harness.publish("b", b"x" * 200_000)
    harness.close("b")
    harness.run()
    subscriber = subscriber or await harness.subscribe("a", "b", cursor=0)
    assert (await end_of(harness, subscriber)).endswith(sse.end("b", "closed", 3))
    assert harness.is_complete(subscriber)


async def test_a_stream_without_open_topics_is_complete(harness: HubHarness) -> None:
    subscriber = await harness.subscribe()
    assert harness.receive(subscriber, WIRE) == LAST_CHUNK


async def test_a_slow_subscriber_gets_no_last_chunk(harness: HubHarness) -> None:
    harness.retention = Retention(2, 1 << 20, 1e9)
    subscriber = await harness.subscribe("a")
    for _ in range(100):
        harness.publish("a", b"x" * 10_000)
        harness.run()
    assert subscriber.lag is not None
    await end_of(harness, subscriber)
    assert harness.closes == [CloseReason.SLOW]
    assert not harness.is_complete(subscriber)


async def test_a_peer_that_half_closes_gets_no_last_chunk(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.hub.left(subscriber)
    await end_of(harness, subscriber)
    assert harness.closes == [CloseReason.CLIENT]
    assert not harness.is_complete(subscriber)


async def test_a_stream_that_is_cut_gets_no_last_chunk(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.hub.cut(subscriber, CloseReason.DRAINING)
    await harness.closing()
    with pytest.raises(ConnectionResetError):
        harness.read(subscriber)
    assert not harness.is_complete(subscriber)
