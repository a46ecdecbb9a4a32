"""Publishers wait in order, for their own topic, and none starves."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from broker.fanout.backpressure import MAX_BYTES, MAX_TOPIC_BYTES, Backpressure
from tests.support.waiting import WAIT_SECONDS
from tests.support.work import bytecodes


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
        self.backpressure.admit(topics)

    async def written(self, topic: str) -> None:
        self.bytes[topic] = 0
        self.backpressure.admit((topic,))
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


@pytest.mark.parametrize("topics", [1, 20])
async def test_to_admit_a_publisher_takes_the_same_however_many_wait(topics: int) -> None:
    """The whole queue was walked for each one: 20,000 publishers took minutes."""

    async def work(publishers: int) -> float:
        way = OnItsWay()
        names = [f"t{number}" for number in range(topics)]
        for name in names:
            await way.publish("first", name)
        tasks = await start(*(way.publish("waits", names[n % topics]) for n in range(publishers)))
        steps = 0

        def write(topic: str) -> None:
            way.bytes[topic] = 0
            way.backpressure.admit((topic,))

        for _ in range(publishers // topics):
            for name in names:
                steps += bytecodes(partial(write, name))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert not way.backpressure.queued
        return steps / publishers

    few, many = await work(200), await work(800)
    assert many < 1.2 * few


async def test_a_publish_to_several_topics_waits_for_all_of_them_in_order() -> None:
    way = OnItsWay()
    await way.publish("first", "a")
    await way.publish("first", "b")
    tasks = await start(
        way.publish("a", "a"), way.publish("both", "a", "b"), way.publish("b", "b"), way.publish("a2", "a")
    )
    del way.published[:]
    await way.written("b")
    assert not way.published  # `both` waits for a, and `b` for `both`
    await way.written("a")
    assert way.published == ["a"]
    await way.written("a")
    assert way.published == ["a", "both"]
    await way.written("b")
    assert way.published == ["a", "both", "b"]
    await way.written("a")
    await asyncio.gather(*tasks)
    assert way.published == ["a", "both", "b", "a2"]


async def test_those_that_give_up_hold_nobody_up() -> None:
    way = OnItsWay()
    await way.publish("first", "a")
    await way.publish("first", "b")
    waiting = await start(
        way.publish("1", "a"), way.publish("2", "a", "b"), way.publish("3", "b"), way.publish("4", "a", "b")
    )
    del way.published[:]
    for task in waiting[:3]:
        task.cancel()
    await asyncio.sleep(0)
    await way.written("a")
    await way.written("b")
    await waiting[3]
    assert way.published == ["4"]
    assert not way.backpressure.queued


async def test_when_all_topics_have_room_again_those_go_first_that_came_first() -> None:
    way = OnItsWay()
    way.bytes = {f"t{number}": MAX_TOPIC_BYTES for number in range(MAX_BYTES // MAX_TOPIC_BYTES + 1)}
    tasks = await start(
        *(way.publish(name, name, size=1) for name in ("x", "y", "z")), way.publish("x2", "x")
    )
    await way.written("t0")
    assert way.published == ["x", "y", "z"]
    await way.written("t1")
    await asyncio.gather(*tasks)
    assert way.published[3:] == ["x2"]


async def test_a_publish_without_topics_waits_for_the_bound_of_all_topics_alone() -> None:
    """The end of a topic is one."""
    way = OnItsWay()
    way.bytes = {f"t{number}": MAX_TOPIC_BYTES for number in range(MAX_BYTES // MAX_TOPIC_BYTES + 1)}
    (task,) = await start(way.publish("ends"))
    assert not way.published
    await way.written("t0")
    await task
    assert way.published == ["ends"]
