"""How much the logs keep for subscribers, and for how long."""

from __future__ import annotations

from broker import sse
from broker.fanout.fanout import WRITES_PER_TURN
from broker.fanout.subscriber import CloseReason
from broker.topics import Retention
from tests.support.hub_harness import HubHarness


async def test_i2_a_burst_larger_than_the_retention_reaches_all_that_are_up_to_date(
    harness: HubHarness,
) -> None:
    harness.retention = Retention(1, 1, 1e9)
    subscribers = [await harness.subscribe("a") for _ in range(3)]
    for number in range(500):
        harness.publish("a", b"%d" % number)
    harness.run()
    for subscriber in subscribers:
        assert await harness.read_all(subscriber, harness.last) == list(range(1, 501))
    assert len(harness.log("a")) == 1  # trimmed as soon as they are written


async def test_the_backlog_goes_when_the_last_subscriber_leaves(harness: HubHarness) -> None:
    harness.retention = Retention(1, 1, 1e9)
    subscriber = await harness.subscribe("a")
    for _ in range(50):
        harness.publish("a", b"x")
    assert len(harness.log("a")) == 50
    assert harness.hub.feeds.backlog > 0
    harness.hub.cut(subscriber, CloseReason.CLIENT)
    assert len(harness.log("a")) == 1
    assert harness.hub.feeds.backlog == 0
    harness.run()
    assert harness.hub.feeds.backlog == 0


async def test_entries_stay_until_every_feed_of_the_topic_is_written(harness: HubHarness) -> None:
    harness.retention = Retention(1, 1, 1e9)
    alone = [await harness.subscribe("a") for _ in range(WRITES_PER_TURN)]
    both = await harness.subscribe("a", "b")
    for _ in range(20):
        harness.publish("a", b"x")
        harness.turn()
    harness.run()
    assert await harness.read_all(both, harness.last) == list(range(1, 21))
    assert await harness.read_all(alone[0], harness.last) == list(range(1, 21))
    assert len(harness.log("a")) == 1


async def test_many_feeds_of_one_topic_share_its_backlog(harness: HubHarness) -> None:
    for number in range(50):
        await harness.subscribe("common", f"own{number}")
    size = len(sse.frame(sse.lines(b"x" * 100), 1))
    for _ in range(9):
        harness.publish("common", b"x" * 100)
    assert harness.hub.feeds.backlog == harness.hub.feeds.backlog_of("common") == 9 * size
    harness.run()
    assert harness.hub.feeds.backlog == 0
