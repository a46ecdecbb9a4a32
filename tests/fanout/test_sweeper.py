"""Heartbeats, stuck connections, maximum age."""

from __future__ import annotations

import asyncio

import pytest

from broker import sse
from broker.fanout.close_reason import CloseReason
from broker.fanout.fanout import WRITES_PER_TURN
from broker.fanout.subscriber import Subscriber
from tests.support.hub_harness import HubHarness
from tests.support.waiting import WAIT_SECONDS


async def test_a_stuck_subscriber_is_closed_and_nothing_waits_for_it(harness: HubHarness) -> None:
    stuck = await harness.subscribe("a")
    harness.publish("a", b"x" * 500_000)
    harness.run()
    harness.hub.sweep()
    harness.now += 29
    harness.hub.sweep()
    assert stuck.feed is not None
    harness.now += 2
    harness.hub.sweep()
    assert stuck.feed is None
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            await asyncio.sleep(0)
    assert harness.closes == [CloseReason.SLOW]
    assert harness.released == ["a"]


async def test_a_slow_reader_that_still_reads_is_not_stuck(harness: HubHarness) -> None:
    slow = await harness.subscribe("a")
    harness.publish("a", b"x" * 300_000)
    harness.run()
    read = 0
    while read < 300_000:
        harness.now += 25
        harness.hub.sweep()
        assert slow.feed is not None, f"cut after {read} bytes"
        async with asyncio.timeout(WAIT_SECONDS):
            got = 0
            while got < 24_000:
                try:
                    got += len(harness.far[slow].recv(24_000 - got))
                except BlockingIOError:
                    await asyncio.sleep(0)
                if read + got >= 300_000:
                    break
        read += got
        await asyncio.sleep(0)
    assert not harness.closes


async def test_an_ended_stream_is_closed_as_soon_as_its_client_has_everything(harness: HubHarness) -> None:
    harness.publish("a", b"x" * 100_000)
    slow = await harness.subscribe("a", cursor=0)
    harness.hub.finish(slow, CloseReason.DRAINING, sse.retry(1))
    harness.hub.sweep()
    await asyncio.sleep(0)
    assert not harness.closes  # it has not read yet
    data = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            data += harness.read(slow)
            harness.hub.sweep()
            await asyncio.sleep(0)
    data += harness.read(slow)
    assert data.endswith(b"id: 0-1\n\nretry: 1\n")
    assert harness.closes == [CloseReason.DRAINING]


async def test_heartbeats_go_only_to_silent_streams_and_only_once(harness: HubHarness) -> None:
    silent, served = await harness.subscribe("a"), await harness.subscribe("b")
    harness.now += 10
    harness.publish("b", b"x")
    harness.run()
    harness.read(served)
    harness.now += 6
    harness.hub.sweep()
    harness.hub.sweep()
    assert harness.read(silent) == sse.HEARTBEAT
    assert harness.read(served) == b""
    harness.now += 15
    harness.hub.sweep()
    assert harness.read(silent) == harness.read(served) == sse.HEARTBEAT


async def test_a_quiet_stream_gets_a_heartbeat_only_after_ten_minutes(harness: HubHarness) -> None:
    quiet = await harness.subscribe("a")
    quiet.quiet = True
    for _ in range(59):
        harness.now += 10
        harness.hub.sweep()
    assert harness.read(quiet) == b""
    harness.now += 11
    harness.hub.sweep()
    assert harness.read(quiet) == sse.HEARTBEAT


@pytest.mark.parametrize("harness", [100], indirect=True)
async def test_streams_end_for_age_spread_over_the_last_fifth_of_the_maximum(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(200)]
    left = []
    for _ in range(100):
        harness.now += 1
        harness.hub.sweep()
        harness.run()
        left.append(sum(subscriber.feed is not None for subscriber in subscribers))
    assert left[79] == 200
    assert left[99] == 0
    assert 60 < left[89] < 140, "half of them after half of that time, give or take eight deviations"
    ended = harness.read(subscribers[0])
    assert ended.removeprefix(sse.HEARTBEAT * ended.count(sse.HEARTBEAT)) == b"retry: 1\n"


@pytest.mark.parametrize("harness", [100], indirect=True)
async def test_a_stream_that_ends_for_its_age_gets_everything_first(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.now += 100
    harness.publish("a", b"x")
    harness.hub.sweep()
    assert harness.read(subscriber) == b"data: x\nid: 0-1\n\nretry: 1\n"


@pytest.mark.uncompiled
async def test_a_peer_that_acknowledges_no_heartbeat_times_out(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished, there = await harness.subscribe("a"), await harness.subscribe("a")
    # a half-open peer can't be had without a network to cut: the kernel's figure stands for it
    in_kernel = {vanished._transport: 2}
    monkeypatch.setattr("broker.fanout.subscriber.unacknowledged", lambda one: in_kernel.get(one, 0))
    harness.now += 15
    harness.hub.sweep()
    assert vanished.lag is not None
    harness.publish("a", b"waits for its answer")
    harness.run()
    assert harness.read(vanished) == b""
    for _ in range(2):
        harness.now += 14
        harness.hub.sweep()
    in_kernel[vanished._transport] = 0
    harness.hub.sweep()
    harness.run()
    assert vanished.lag is None
    assert b"waits for its answer" in harness.read(vanished)
    in_kernel[vanished._transport] = 2
    for _ in range(4):
        harness.now += 15
        harness.hub.sweep()
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            await asyncio.sleep(0)
    assert harness.closes == [CloseReason.TIMEOUT]
    assert there.feed is not None


async def test_a_sweep_over_many_takes_several_turns_and_visits_all(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(WRITES_PER_TURN * 2 + 5)]
    harness.now += 16
    harness.hub.sweep()
    harness.hub.sweep()  # while one is underway: nothing
    harness.run()
    assert all(harness.read(subscriber) == sse.HEARTBEAT for subscriber in subscribers)


@pytest.mark.uncompiled
async def test_i9_a_defect_with_one_connection_stops_no_heartbeat_but_shows(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await harness.subscribe("a"), await harness.subscribe("a")
    look = Subscriber.is_acknowledged
    monkeypatch.setattr(Subscriber, "is_acknowledged", lambda one: 1 / 0 if one is bad else look(one))
    harness.now += 16
    harness.hub.sweep()
    assert harness.read(good) == sse.HEARTBEAT
    assert isinstance(harness.hub.failure, ZeroDivisionError)
    harness.now += 16
    harness.hub.sweep()
    assert harness.read(good) == sse.HEARTBEAT
