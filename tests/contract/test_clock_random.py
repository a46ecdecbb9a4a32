"""I2 whatever the clock does: every cursor gets all that follows it, or a gap."""

from __future__ import annotations

import random

import pytest

from broker.events import EventId
from broker.log.start import After, position
from tests.contract.conftest import item
from tests.support.store_harness import StoreHarness
from tests.support.waiting import until

TOPICS = ("a", "b", "few", "d")
STEPS = 60
PAUSES = (1, 30, 61, 1800, 3500)
LEAPS = (3000, 4000, 86_400, 10 * 365 * 86_400)


class Run:
    """A store, the events that were published to it, and a clock that leaps ahead and back."""

    def __init__(self, store: StoreHarness, seed: int) -> None:
        self.harness = store
        self.chance = random.Random(seed)
        self.published: list[tuple[EventId, str]] = []
        self.leapt = 0.0

    async def step(self) -> None:
        action = self.chance.choices(
            (self.publish, self.wait, self.leap, self.harness.sweep, self.delete, self.check),
            weights=(45, 15, 15, 10, 5, 10),
        )
        await action[0]()

    async def publish(self) -> None:
        topic = self.chance.choice(TOPICS)
        items = [item(topic, "x") for _ in range(self.chance.randint(1, 4))]
        ids = list((await self.harness.store.topics.publish(items)).ids)
        assert not self.published or ids[0] > self.published[-1][0]
        self.published += [(event_id, topic) for event_id in ids]

    async def wait(self) -> None:
        self.harness.advance(self.chance.choice(PAUSES))

    async def leap(self) -> None:
        seconds = -self.leapt or self.chance.choice(LEAPS)
        self.leapt += seconds
        self.harness.advance(seconds)

    async def delete(self) -> None:
        await self.harness.store.topics.delete(self.chance.choice(TOPICS))

    async def check(self) -> None:
        cursors = [0, *(event_id for event_id, _ in self.published[-30:])]
        for cursor in self.chance.sample(cursors, min(4, len(cursors))):
            await self.check_cursor(cursor, self.chance.choice(TOPICS))

    async def check_cursor(self, cursor: EventId, topic: str) -> None:
        due = [event_id for event_id, name in self.published if name == topic and event_id > cursor]
        store = self.harness.store
        (log,) = await store.logs.watch([topic], start := After(cursor, ""))
        where = position(start, [topic], [log], store.logs)

        def is_told() -> bool:
            entries = list(log.after(where.cursor))
            found = [entry.id for entry in entries if entry.frame and not entry.end]
            return bool(where.gaps) or found == due or any(entry.gap for entry in entries)

        await until(
            is_told, f"all after {cursor} in {topic}, or a gap"
        )  # an event on its way, or a gap, may reach the log later
        store.logs.unwatch([topic])


@pytest.mark.parametrize("seed", range(8))
async def test_i2_no_gap_is_silent_whatever_the_clock_does(store: StoreHarness, seed: int) -> None:
    run = Run(store, seed)
    for _ in range(STEPS):
        await run.step()
