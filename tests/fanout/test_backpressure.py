"""Publishers wait in order, for their own topic, and none starves."""

from __future__ import annotations

import asyncio

from broker.fanout.backpressure import MAX_BYTES, MAX_TOPIC_BYTES, Backpressure
from tests.support.waiting import WAIT_SECONDS


class OnItsWay:
    """Bytes on their way, by topic; a publish adds to them."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.published: list[str] = []
        self.backpressure = Backpressure(self)

    @property
    def backlog(self) -> int:
        return sum(self.bytes.values())

    def backlog_of(self, topic: str) -> int:
        return self.bytes.get(topic, 0)

    async def publish(self, name: str, *topics: str, size: int = MAX_TOPIC_BYTES + 1) -> None:
        if not self.backpressure.is_open(topics):
            await self.backpressure.wait(topics)
        for topic in topics:
            self.bytes[topic] = self.bytes.get(topic, 0) + size
        self.published.append(name)
        self.backpressure.admit()

    async def written(self, topic: str) -> None:
        self.bytes[topic] = 0
        self.backpressure.admit()
        await asyncio.sleep(0)


async def start(*publishes: object) -> list[asyncio.Task[None]]:
    tasks = [asyncio.ensure_future(publish) for publish in publishes]  # type: ignore[call-overload]
    await asyncio.sleep(0)
    return tasks


async def test_first_come_first_served_and_one_at_a_time() -> None:
    way = OnItsWay()
    await way.publish("first", "a")
    tasks = await start(*(way.publish(name, "a") for name in "123"))
    assert way.published == ["first"]
    for count in (2, 3, 4):
        await way.written("a")
        tasks += await start(way.publish(f"late {count}", "a"))
        assert way.published == ["first", "1", "2", "3"][:count]
        assert way.bytes["a"] == MAX_TOPIC_BYTES + 1
    for _ in range(3):
        await way.written("a")
    await asyncio.gather(*tasks)
    assert way.published[4:] == ["late 2", "late 3", "late 4"]


async def test_a_busy_topic_delays_only_its_own_publishers() -> None:
    way = OnItsWay()
    await way.publish("first", "busy")
    tasks = await start(way.publish("waits", "busy"), way.publish("waits, too", "busy", "quiet"))
    async with asyncio.timeout(WAIT_SECONDS):
        await way.publish("passes", "other")
    assert way.published == ["first", "passes"]
    await way.written("busy")
    await way.written("busy")
    await asyncio.gather(*tasks)


async def test_all_topics_together_have_a_bound() -> None:
    way = OnItsWay()
    way.bytes = {f"t{number}": MAX_TOPIC_BYTES for number in range(MAX_BYTES // MAX_TOPIC_BYTES + 1)}
    (task,) = await start(way.publish("waits", "other", size=1))
    assert not way.published
    await way.written("t0")
    await task


async def test_a_publisher_that_gives_up_leaves_nothing() -> None:
    way = OnItsWay()
    await way.publish("first", "a")
    given_up, waiting = await start(way.publish("gives up", "a"), way.publish("waits", "a"))
    given_up.cancel()
    await asyncio.sleep(0)
    await way.written("a")
    await waiting
    assert way.published == ["first", "waits"]
    await way.written("a")
    assert way.backpressure.is_open(["a"])
