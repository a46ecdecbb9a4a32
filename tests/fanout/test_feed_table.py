"""How much the logs keep for subscribers, and for how long."""

from __future__ import annotations

from broker import sse
from broker.fanout.close_reason import CloseReason
from broker.fanout.fanout import WRITES_PER_TURN
from broker.fanout.subscriber import Subscriber
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


# A stream of several topics is written up to `complete_to`, while one of the topics is repaired: the others' logs hold the rest


async def test_i2_a_stream_that_leaves_its_floors_misses_nothing(harness: HubHarness) -> None:
    harness.retention = Retention(2, 1 << 20, 1e9)
    for topic in ("a", "b", "b"):
        harness.publish(topic, b"x" * 60_000)  # more than the socket takes: it lags
    subscriber = await harness.subscribe("a", "b", cursor=0, floors=(1, 0))
    harness.incomplete_after = harness.last
    await publish_beyond(harness, subscriber)


async def test_i2_a_stream_that_leaves_an_ended_topic_misses_nothing(harness: HubHarness) -> None:
    harness.retention = Retention(2, 1 << 20, 1e9)
    subscriber = await harness.subscribe("a", "b", "c")
    harness.publish("a", b"x")
    harness.close("b")
    harness.incomplete_after = harness.last
    await publish_beyond(harness, subscriber)


async def test_i2_a_stream_that_leaves_all_but_one_topic_misses_nothing(harness: HubHarness) -> None:
    harness.retention = Retention(2, 1 << 20, 1e9)
    subscriber = await harness.subscribe("a", "b")
    harness.publish("a", b"x")
    harness.close("b")
    harness.incomplete_after = harness.last
    await publish_beyond(harness, subscriber)


async def test_i2_a_log_holds_more_again_for_a_stream_that_is_less_far(harness: HubHarness) -> None:
    """The topic's other subscribers are written past `complete_to`."""
    harness.retention = Retention(2, 1 << 20, 1e9)
    await harness.subscribe("a")
    harness.publish("a", b"x")
    harness.publish("b", b"x")
    harness.incomplete_after = harness.last
    for _ in range(5):
        harness.publish("a", b"x")
    harness.run()
    cursor = harness.last - 2
    subscriber = await harness.subscribe("a", "b", cursor=2, floors=(cursor, 2))
    await publish_beyond(harness, subscriber, cursor)


async def publish_beyond(harness: HubHarness, subscriber: Subscriber, first: int | None = None) -> None:
    """Publish to a beyond `complete_to`, then let that reach the end: `subscriber` gets every event after `first`."""
    complete_to = harness.complete_to
    first = complete_to if first is None else first
    for _ in range(6):
        harness.publish("a", b"x")
    seen = [subscriber.cursor]
    if complete_to > subscriber.cursor:
        seen = await harness.read_all(subscriber, complete_to)
    harness.run()
    harness.incomplete_after = None
    harness.hub.fan_out.delivered("a", 0)
    if seen[-1] < harness.last:
        seen += await harness.read_all(subscriber, harness.last)
    assert [event_id for event_id in seen if event_id > first] == list(range(first + 1, harness.last + 1))
    assert not harness.closes
    harness.run()
    assert len(harness.log("a")) == 2, "and nothing is held any longer"
