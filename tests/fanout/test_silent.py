"""Silent subscribers: every event up to the first gap, none of the broker's own, and a clean end only if all topics have ended."""

from __future__ import annotations

import asyncio
import random

import pytest

from broker.events import Event
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from broker.sse import Decoder
from tests.support.hub_harness import HubHarness
from tests.support.waiting import WAIT_SECONDS

TOPICS = ("a", "b", "c")


class Reader:
    """What a subscriber has got."""

    def __init__(self, harness: HubHarness, subscriber: Subscriber) -> None:
        self.events: list[Event] = []
        self.subscriber = subscriber
        self._harness = harness
        self._decoder = Decoder()

    def read(self) -> None:
        self.events += self._decoder.feed(self._harness.read(self.subscriber))

    def published_before_a_gap(self) -> list[Event]:
        events = []
        for event in self.events:
            if event.type == "broker.gap":
                break
            if event.type != "broker.end":
                events.append(event)
        return events


async def settle(harness: HubHarness, readers: list[Reader]) -> None:
    """Let the hub write, and the readers read, until nothing more comes."""
    async with asyncio.timeout(WAIT_SECONDS):
        for _ in range(3):
            harness.run()
            harness.hub.sweep()
            harness.run()
            for reader in readers:
                reader.read()
            await asyncio.sleep(0)
        while any(
            reader.subscriber.lag is not None and reader.subscriber.feed is not None for reader in readers
        ):
            harness.run()
            for reader in readers:
                reader.read()
            await asyncio.sleep(0)
        for reader in readers:
            reader.read()


async def read_to_the_last_chunk(harness: HubHarness, reader: Reader) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.is_complete(reader.subscriber):
            reader.read()
            await asyncio.sleep(0)


@pytest.mark.parametrize("count", range(1, len(TOPICS) + 1))
@pytest.mark.parametrize("enveloped", [False, True])
async def test_a_silent_stream_is_the_other_one_without_the_brokers_events(
    harness: HubHarness, chance: random.Random, count: int, *, enveloped: bool
) -> None:
    for _ in range(20):
        topics = [f"{name}{chance.random()}" for name in TOPICS[:count]]
        subscribers = [
            await harness.subscribe(*topics, silent=silent, is_enveloped=enveloped)
            for silent in (True, False)
        ]
        silent, full = readers = [Reader(harness, subscriber) for subscriber in subscribers]
        open_topics = list(topics)
        while open_topics and chance.random() < 0.95:
            topic = chance.choice(open_topics)
            match chance.randrange(10):
                case 0:
                    harness.close(topic)
                    open_topics.remove(topic)
                case 1:
                    harness.lose(*chance.sample(open_topics, chance.randint(1, len(open_topics))))
                case 2:
                    await settle(harness, readers)
                case _:
                    harness.publish(topic, b"x" * chance.choice((1, 100, 40_000)))
        await settle(harness, readers)
        has_gap = any(event.type == "broker.gap" for event in full.events)
        assert silent.events == full.published_before_a_gap()
        assert silent.subscriber.is_finished == (has_gap or not open_topics)
        if not open_topics and not has_gap:
            await read_to_the_last_chunk(harness, silent)
        assert harness.is_complete(silent.subscriber) == (not open_topics and not has_gap)
        for subscriber in subscribers:
            if not subscriber.is_finished:
                harness.hub.cut(subscriber, CloseReason.CLIENT)


async def test_a_replay_stops_before_a_gap(harness: HubHarness) -> None:
    harness.publish("a", b"1")
    harness.lose("a")
    harness.publish("a", b"2")
    subscriber = await harness.subscribe("a", cursor=0, silent=True)
    reader = Reader(harness, subscriber)
    reader.read()
    assert [event.data for event in reader.events] == ["1"]
    assert subscriber.is_finished
    assert not harness.is_complete(subscriber)


async def test_what_ends_a_lagging_one_cuts_it_too(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", silent=True)
    while subscriber.lag is None:
        harness.publish("a", b"x" * 60_000)
        harness.run()
    harness.hub.finish(subscriber, CloseReason.DRAINING)
    reader = Reader(harness, subscriber)
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            reader.read()
            harness.hub.sweep()
            await asyncio.sleep(0)
    reader.read()
    assert not harness.is_complete(subscriber)


async def test_a_control_event_is_not_kept_for_a_lagging_one(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", silent=True)
    while subscriber.lag is None:
        harness.publish("a", b"x" * 60_000)
        harness.run()
    harness.hub.send_control(subscriber, b"event: broker.cancel\ndata: {}\n\n")
    assert subscriber.lag.control_event == b""
