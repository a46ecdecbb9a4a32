"""How subscribers end."""

from __future__ import annotations

import asyncio

import pytest

from broker import sse
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from tests.support.hub_harness import HubHarness
from tests.support.waiting import WAIT_SECONDS


@pytest.mark.parametrize("data", [b"", b"data: after\nid: 0-2\n\n"])
async def test_a_control_event_comes_between_two_events_and_one_that_lags_gets_only_the_latest(
    harness: HubHarness, data: bytes
) -> None:
    subscriber = await harness.subscribe("a")
    harness.hub.send_control(subscriber, b": at once\n\n")
    assert harness.read(subscriber) == b": at once\n\n"
    large = b"x" * 100_000
    harness.publish("a", large)
    harness.run()
    for notice in (b": first\n\n", b": latest\n\n"):
        harness.hub.send_control(subscriber, notice)
    if data:
        harness.publish("a", b"after")
    wanted = b"data: " + large + b"\nid: 0-1\n\n: latest\n\n" + data
    got = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(got) < len(wanted):
            got += harness.read(subscriber)
            harness.run()
            await asyncio.sleep(0)
    assert got == wanted


async def test_a_drained_subscriber_gets_all_published_events_first(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", "b")
    harness.publish("a", b"answered")
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1234))
    assert harness.read(subscriber) == b"data: answered\nid: 0-1\n\nretry: 1234\n"


async def test_a_drained_subscriber_gets_the_end_of_its_topic_first(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.close("a")
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1234))
    assert harness.read(subscriber) == sse.end("a", "closed", 1)
    await harness.closing()
    assert harness.closes == [CloseReason.ENDED]


async def test_nothing_stays_of_a_subscriber_that_has_left(harness: HubHarness) -> None:
    subscribers = [
        await harness.subscribe(*topics)
        for topics in (("a",), ("a", "b"), ("b",), ("a", "b"))
        for _ in range(5)
    ]
    for far in harness.far.values():
        far.close()
    async with asyncio.timeout(WAIT_SECONDS):
        while len(harness.closes) < len(subscribers):
            await asyncio.sleep(0)
    assert len(harness.hub) == 0
    assert len(harness.hub.feeds) == 0
    assert harness.log("a").trim_barrier is None
    assert sorted(harness.released) == ["a"] * 15 + ["b"] * 15


@pytest.mark.uncompiled
async def test_the_figures_of_many_lagging_subscribers_need_few_of_them(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure thousands lag, each in several topics: a scrape must not hold up their next writes."""
    first = await harness.subscribe("a")
    harness.publish("a", b"x" * 100_000)
    harness.run()
    harness.now += 5
    for _ in range(299):
        await harness.subscribe("b")
    harness.publish("b", b"x" * 200_000)
    harness.run()
    assert all(one.lag for one in harness.hub.subscribers)
    measured: list[Subscriber] = []
    unwritten_bytes = Subscriber.unwritten_bytes

    def counted(subscriber: Subscriber) -> int:
        measured.append(subscriber)
        return unwritten_bytes(subscriber)

    exact = [one.unwritten_bytes() for one in harness.hub.subscribers]
    monkeypatch.setattr(Subscriber, "unwritten_bytes", counted)
    figures = harness.hub.lagging
    assert figures.number == 300
    assert figures.max_seconds == 5
    assert figures.max_bytes == max(exact)
    assert figures.bytes == pytest.approx(sum(exact), rel=0.05)
    assert first in measured
    assert len(measured) <= 201
