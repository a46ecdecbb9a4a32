"""Fan-out against a list: whatever is published, deleted, subscribed, read and left in whatever order, between any two turns
of the loop, each subscriber gets its topics' events, once and in order, each topic up to its end, and nothing is left over.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from broker.events import Event
from broker.fanout import catch_up, fanout, feed
from broker.fanout.subscriber import Subscriber
from broker.log.start import After, has_seen_all, position
from broker.sse import Decoder
from tests.support.hub_harness import HubHarness
from tests.support.store_state import StateValue
from tests.support.waiting import WAIT_SECONDS

TOPICS = ["a", "b", "c"]
STEPS = 100
SIZES = [1, 10, 300, 30_000]  # bytes; the last one makes its readers lag


@dataclass
class Told:
    """The events that a subscriber got, and those it should get."""

    topics: tuple[str, ...]
    decoder: Decoder
    wanted: list[int]
    received_bytes: int = 0
    events: list[Event] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [int(event.id.split("-")[1]) for event in self.events]


class Story:
    """A random run over a harness."""

    def __init__(self, harness: HubHarness, chance: random.Random) -> None:
        self.harness = harness
        self.chance = chance
        self.told: dict[Subscriber, Told] = {}

    async def step(self) -> None:
        steps = [self.publish, self.close, self.delete, self.subscribe, self.turn, self.read, self.leave]
        (chosen,) = self.chance.choices(steps, [35, 5, 7, 18, 25, 10, 5])
        await chosen()

    def note(self, topic: str, events: int = 1, *, end: bool = False) -> None:
        last = self.harness.last
        for told in self.told.values():
            if topic in told.topics:
                told.wanted += range(last - events + 1, last + 1)
                told.topics = tuple(one for one in told.topics if not (end and one == topic))

    async def publish(self) -> None:
        topic = self.chance.choice(TOPICS)
        if self.harness.log(topic).end is not None:
            return  # the store refuses it
        self.harness.now += self.chance.choice([0, 2 * fanout.JOIN_SECONDS])
        together = self.chance.choice([0, 0, 1, 1, 2, 5, feed.FEW + 1])
        if together:
            sizes = SIZES if together == 1 else SIZES[:3]
            self.harness.publish_at_once(topic, *(b"x" * self.chance.choice(sizes) for _ in range(together)))
        else:
            self.harness.publish(topic, b"x" * self.chance.choice(SIZES))
        self.note(topic, together or 1)

    async def close(self) -> None:
        topic = self.chance.choice(TOPICS)
        if self.harness.log(topic).end is None:
            self.harness.close(topic)
            self.note(topic, end=True)

    async def delete(self) -> None:
        topic = self.chance.choice(TOPICS)
        self.harness.log(topic)
        self.harness.delete(topic)
        self.note(topic, end=True)

    async def subscribe(self) -> None:
        topics = tuple(self.chance.sample(TOPICS, self.chance.choice([1, 1, 1, 2, 2, 3])))
        cursor = self.chance.choice([self.harness.last, self.chance.randint(0, self.harness.last)])
        logs = [self.harness.log(topic) for topic in topics]
        start = After(cursor, "")
        known = StateValue(0, self.harness.last, self.harness.last)
        if has_seen_all(start, logs, known):
            return
        where = position(start, topics, logs, known)
        logs = [self.harness.log(topic) for topic in where.topics]
        floors = where.floors or (where.cursor,) * len(logs)
        replayed = sorted(
            entry.id for log, floor in zip(logs, floors, strict=True) for entry in log.after(floor)
        )
        going_on = tuple(topic for topic in where.topics if self.harness.log(topic).end is None)
        subscriber = await self.harness.subscribe(*where.topics, cursor=where.cursor, floors=where.floors)
        self.told[subscriber] = Told(going_on, Decoder(), replayed)

    async def turn(self) -> None:
        self.harness.turn()

    def take(self, subscriber: Subscriber) -> int:
        told, size = self.told[subscriber], 0
        while data := self.harness.receive(subscriber, 1 << 20):
            told.events += told.decoder.feed(self.harness.chunks[subscriber].feed(data))
            size += len(data)
        told.received_bytes += size
        return size

    async def read(self) -> None:
        if self.told:
            self.take(self.chance.choice(list(self.told)))
        await asyncio.sleep(0)

    async def leave(self) -> None:
        if self.told:
            subscriber = self.chance.choice(list(self.told))
            self.harness.far.pop(subscriber).close()
            del self.told[subscriber]
        await asyncio.sleep(0)

    async def quiet(self) -> None:
        """Let all read until nothing comes any more."""
        silent = 0
        async with asyncio.timeout(WAIT_SECONDS):
            while silent < 30:
                self.harness.run()
                await asyncio.sleep(0.001 if silent % 10 == 9 else 0)
                moved = sum(self.take(subscriber) for subscriber in self.told)
                lagging = any(one.lag is not None and one.feed is not None for one in self.told)
                silent = 0 if moved or lagging else silent + 1


@pytest.mark.parametrize("seed", [*range(100), None], ids=lambda seed: f"seed {seed}")
async def test_i1_i2_each_gets_its_events_once_in_order_and_to_the_end(
    harness: HubHarness, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed is None:
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
    chance = random.Random(seed)
    monkeypatch.setattr(fanout, "WRITES_PER_TURN", 3)
    monkeypatch.setattr(catch_up, "BATCHES_PER_TURN", 2)
    piece_bytes = chance.choice([500, 64 << 10])
    monkeypatch.setattr(feed, "PIECE_BYTES", piece_bytes)
    story = Story(harness, chance)
    for _ in range(STEPS):
        await story.step()
    await story.quiet()
    for subscriber, told in story.told.items():
        if subscriber.feed is None and subscriber.lag is not None:  # the log moved past it: the walk ends it
            assert told.ids == told.wanted[: len(told.ids)]
        else:
            assert told.ids == told.wanted
            assert subscriber.events == len(told.events)
            assert subscriber.bytes_written == told.received_bytes
    assert harness.hub.feeds.backlog == 0
    for log in harness.logs.values():
        assert log.trim_barrier in (None, log.last), "written entries are not kept for subscribers"
