"""Fan-out: passes over feeds, subscribers that are behind, topics that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from broker.fanout import catch_up, fanout, feed
from broker.fanout.catch_up import BATCHES_PER_TURN
from broker.fanout.close_reason import CloseReason
from broker.fanout.fanout import FEW, JOIN_SECONDS, MOVE_WRITES, WRITES_AT_ONCE, WRITES_PER_TURN
from broker.fanout.feed import FEW as FEW_EVENTS
from broker.fanout.feed import FRESH_ENVELOPES
from broker.fanout.subscriber import Subscriber
from broker.fanout.write_each import write_each
from broker.sse import Decoder
from broker.topics import Retention
from tests.support.hub_harness import HubHarness
from tests.support.waiting import WAIT_SECONDS
from tests.support.work import bytecodes


def data(*texts: bytes) -> list[bytes]:
    return [b"data: %b\n" % text for text in texts]


def noting(sent: list[tuple[int, int]]) -> Callable[[Sequence[Subscriber], int, bytes, int, int, float], int]:
    """`write_each`, which notes in `sent` which bytes it has written, and to how many."""

    def write(
        group: Sequence[Subscriber], cursor: int, chunk: bytes, events: int, end: int, now: float
    ) -> int:
        written = write_each(group, cursor, chunk, events, end, now)
        sent.append((id(chunk), written))
        return written

    return write


async def test_events_of_one_turn_leave_as_one_write(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    for text in (b"1", b"2", b"3"):
        harness.publish("a", text)
    assert harness.read(subscriber) == b""
    harness.turn()
    assert harness.read(subscriber) == b"".join(
        line + b"id: 0-%d\n\n" % number for number, line in enumerate(data(b"1", b"2", b"3"), 1)
    )
    assert harness.hub.fan_out.sent.events == 3
    assert harness.hub.feeds.backlog == 0


@pytest.mark.uncompiled
@pytest.mark.parametrize("chunked", [True, False])
async def test_i5_an_event_is_encoded_once_and_its_bytes_are_shared(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fanout, "write_each", noting(sent))
    for _ in range(WRITES_PER_TURN * 2):
        await harness.subscribe("a", chunked=chunked)
    harness.publish("a", b"1")
    harness.run()
    (entry,) = harness.log("a").after(0)
    chunks = {chunk for chunk, _ in sent}
    assert len(chunks) == 1
    assert chunked or chunks == {id(entry.frame)}
    assert sum(written for _, written in sent) == WRITES_PER_TURN * 2


@pytest.mark.parametrize("count", [WRITES_PER_TURN * 2, WRITES_PER_TURN * 3 // 2])
async def test_i3_a_pass_over_many_takes_several_turns(harness: HubHarness, count: int) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(count)]
    harness.publish("a", b"1")
    harness.turn()
    served = sum(bool(harness.read(subscriber)) for subscriber in subscribers)
    assert 0 < served <= WRITES_PER_TURN
    harness.publish("a", b"2")  # in mid-pass: none misses it, none gets anything twice
    harness.run()
    assert harness.hub.fan_out.sent.events == 2 * len(subscribers)
    assert all(subscriber.cursor == harness.last for subscriber in subscribers)


async def test_subscribers_that_come_and_go_during_a_pass_change_nothing_for_the_others(
    harness: HubHarness,
) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(WRITES_PER_TURN * 3)]
    harness.publish("a", b"1")
    harness.turn()
    gone = subscribers[::7] + subscribers[-20:]
    for subscriber in set(gone):
        harness.hub.cut(subscriber, CloseReason.CLIENT)
    late = [await harness.subscribe("a") for _ in range(10)]
    harness.publish("a", b"2")
    harness.run()
    expected = b"".join(data(b"1", b"2"))
    for subscriber in set(subscribers) - set(gone):
        lines = [line + b"\n" for line in harness.read(subscriber).split(b"\n") if line.startswith(b"data")]
        assert b"".join(lines) == expected
    for subscriber in late:
        assert harness.read(subscriber).count(b"data: 2\n") == 1


@pytest.mark.parametrize("order", [("large", "small"), ("small", "large")])
async def test_a_small_feed_does_not_wait_for_the_pass_over_a_large_one(
    harness: HubHarness, order: tuple[str, str]
) -> None:
    for _ in range(WRITES_PER_TURN * 4):
        await harness.subscribe("large")
    small = await harness.subscribe("small")
    for topic in order:
        harness.publish(topic, b"1")
    turns = 0
    while not harness.read(small):
        assert harness.turn()
        turns += 1
    assert turns <= 3


async def test_a_lagging_subscriber_catches_up_in_order(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    for _ in range(100):
        harness.publish("a", b"x" * 10_000)
        harness.run()
    assert subscriber.lag is not None
    assert await harness.read_all(subscriber, harness.last) == list(range(1, 101))
    harness.run()
    assert subscriber.lag is None
    harness.publish("a", b"live again")
    harness.run()
    assert b"live again" in harness.read(subscriber)


async def test_a_replay_is_written_piece_by_piece_and_joins_live_events(harness: HubHarness) -> None:
    for _ in range(60):
        harness.publish("a", b"x" * 10_000)
    subscriber = await harness.subscribe("a", cursor=0)
    assert subscriber.lag is not None
    harness.publish("a", b"live")
    assert await harness.read_all(subscriber, harness.last) == list(range(1, 62))
    assert harness.hub.fan_out.sent.events == 61


async def test_reporting_a_flushed_subscriber_twice_is_harmless(harness: HubHarness) -> None:
    for _ in range(60):
        harness.publish("a", b"x" * 10_000)
    subscriber = await harness.subscribe("a", cursor=0)
    decoder, ids = Decoder(), [0]
    async with asyncio.timeout(WAIT_SECONDS):
        while ids[-1] < harness.last:
            ids += [int(event.id.split("-")[1]) for event in decoder.feed(harness.read(subscriber))]
            harness.hub.flushed(subscriber)
            harness.hub.flushed(subscriber)
            harness.run()
            await asyncio.sleep(0)
    assert ids == list(range(61))


async def test_a_subscriber_that_the_log_has_moved_past_gets_the_rest_of_its_piece_and_is_closed(
    harness: HubHarness,
) -> None:
    harness.retention = Retention(2, 1 << 30, 1e9)
    slow = await harness.subscribe("a")
    for _ in range(60):
        harness.publish("a", b"x" * 10_000)
        harness.run()
    assert slow.lag is not None
    decoder, ids = Decoder(), []
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            ids += [int(event.id.split("-")[1]) for event in decoder.feed(harness.read(slow))]
            harness.run()
            harness.hub.sweep()
            await asyncio.sleep(0)
    decoder.feed(harness.read(slow))
    assert harness.closes == [CloseReason.SLOW]
    assert ids == list(
        range(1, len(ids) + 1)
    )  # whole events, in order, none missing up to where it was closed
    assert len(ids) < 60
    assert harness.log("a").has_gap(ids[-1])


async def test_the_end_of_one_of_several_topics_loses_nothing_of_the_others(harness: HubHarness) -> None:
    harness.retention = Retention(1, 1, 1e9)
    both = await harness.subscribe("a", "b")
    only_b = await harness.subscribe("b")
    harness.delete("a")
    for _ in range(20):
        harness.publish("b", b"x")
    harness.run()
    assert (await harness.read_all(both, harness.last))[1:] == await harness.read_all(only_b, harness.last)
    assert harness.released == ["a"]
    assert both.feed is only_b.feed
    assert (both.reads("a"), both.reads("b")) == (False, True)
    harness.delete("b")
    harness.run()
    assert not both.reads("b")
    async with asyncio.timeout(WAIT_SECONDS):
        while len(harness.closes) < 2:
            await asyncio.sleep(0)
    assert set(harness.closes) == {CloseReason.ENDED}
    assert sorted(harness.released) == ["a", "b", "b"]


async def test_i3_the_end_of_many_topics_takes_several_turns(harness: HubHarness) -> None:
    harness.retention = Retention(1, 1, 1e9)
    *ending, lasting = topics = [f"t{number}" for number in range(32)]
    subscribers = [await harness.subscribe(*topics) for _ in range(WRITES_PER_TURN)]
    alone = await harness.subscribe("alone")
    for topic in ending:
        harness.delete(topic)
        harness.publish(lasting, b"x")
    harness.publish("alone", b"x")
    harness.turn()
    assert 0 < sum(one.cursor > 0 for one in subscribers) <= WRITES_PER_TURN // MOVE_WRITES
    harness.turn()
    assert alone.cursor == harness.last, "no other waits for it"
    harness.run()
    assert {one.feed.key.topics for one in subscribers if one.feed} == {(lasting,)}
    assert sorted(harness.released) == sorted(ending * len(subscribers))
    for subscriber in subscribers[::50]:
        assert await harness.read_all(subscriber, harness.last - 1) == list(range(1, harness.last))


@pytest.mark.uncompiled
async def test_many_with_the_same_ends_are_written_the_same_bytes(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(catch_up, "write_each", noting(sent))
    for _ in range(WRITES_PER_TURN):
        await harness.subscribe("a", "b", "c")
    harness.delete("a")
    harness.delete("b")
    harness.run()
    assert len({chunk for chunk, _ in sent}) == 1
    assert sum(written for _, written in sent) == WRITES_PER_TURN


async def test_i3_a_turn_writes_to_only_a_few_replays(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PIECE_BYTES", 1)
    for _ in range(3):
        harness.publish("a", b"x")
    subscribers = [await harness.subscribe("a", cursor=0) for _ in range(BATCHES_PER_TURN * 2)]
    harness.turn()
    assert [one.cursor for one in subscribers] == [2] * BATCHES_PER_TURN + [1] * BATCHES_PER_TURN
    harness.run()
    assert {one.cursor for one in subscribers} == {3}


async def test_subscribers_of_several_topics_with_the_same_cursor_are_written_together(
    harness: HubHarness,
) -> None:
    first = [await harness.subscribe("a", "b") for _ in range(5)]
    harness.publish("a", b"1")
    harness.publish("other", b"1")
    harness.run()
    second = [await harness.subscribe("a", "b") for _ in range(5)]
    harness.publish("b", b"2")
    harness.run()
    assert {subscriber.cursor for subscriber in first + second} == {harness.last}
    assert harness.hub.fan_out.sent.events == 5 * 2 + 5
    assert await harness.read_all(first[0], 3) == [1, 3]
    assert await harness.read_all(second[0], 3) == [3]


async def test_a_lone_event_is_written_at_once_and_those_that_follow_closely_leave_together(
    harness: HubHarness,
) -> None:
    subscriber, other = await harness.subscribe("a"), await harness.subscribe("b")
    for number in range(1, 4):
        harness.publish_at_once("a", b"%d" % number)
    assert harness.read(subscriber) == b"data: 1\nid: 0-1\n\n"
    harness.publish_at_once("b", b"4")
    assert harness.read(other) == b"data: 4\nid: 0-4\n\n"
    harness.turn()
    assert harness.read(subscriber) == b"data: 2\nid: 0-2\n\ndata: 3\nid: 0-3\n\n"
    harness.publish_at_once("a", b"5")
    assert harness.read(subscriber) == b""
    harness.turn()
    harness.now += 2 * JOIN_SECONDS
    harness.publish_at_once("a", b"6")
    assert harness.read(subscriber) == b"data: 5\nid: 0-5\n\ndata: 6\nid: 0-6\n\n"
    assert (harness.hub.fan_out.sent.events, harness.written.count) == (6, 5), "5 passes"
    assert harness.hub.feeds.backlog == 0


async def test_events_that_arrive_together_are_written_at_once(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.publish_at_once("a", b"1", b"2", b"3")
    assert harness.read(subscriber) == b"data: 1\nid: 0-1\n\ndata: 2\nid: 0-2\n\ndata: 3\nid: 0-3\n\n"
    assert (harness.hub.fan_out.sent.events, harness.hub.feeds.backlog) == (3, 0)
    harness.now += 1
    harness.publish_at_once("a", *(b"x" for _ in range(FEW_EVENTS + 1)))
    assert harness.read(subscriber) == b"", "a turn writes so many"
    harness.run()
    assert harness.read(subscriber).count(b"data: x\n") == FEW_EVENTS + 1


async def test_events_written_at_once_are_not_kept_beyond_their_retention(harness: HubHarness) -> None:
    harness.retention = Retention(2, 1 << 20, 1e9)
    subscriber = await harness.subscribe("a")
    for number in range(1, 6):
        harness.now += 1
        harness.publish_at_once("a", b"x")
        assert harness.read(subscriber)
        assert harness.log("a").trim_barrier == harness.last
        assert len(harness.log("a")) == min(number, 2)


async def test_i9_few_are_written_at_once(harness: HubHarness) -> None:
    topics = WRITES_AT_ONCE // 2 + 1
    for number in range(topics):
        await harness.subscribe(f"{number}")
        await harness.subscribe(f"{number}")
    for number in range(topics):
        harness.publish_at_once(f"{number}", b"x")
    assert harness.hub.fan_out.sent.events == WRITES_AT_ONCE
    harness.turn()
    assert harness.hub.fan_out.sent.events == WRITES_AT_ONCE + 2
    for _ in range(FEW + 1):
        await harness.subscribe("many")
    harness.now += 1
    harness.publish_at_once("many", b"x")
    assert harness.hub.fan_out.sent.events == WRITES_AT_ONCE + 2


async def test_i3_a_lone_event_passes_by_those_that_lag(harness: HubHarness) -> None:
    slow, ready = await harness.subscribe("a"), await harness.subscribe("a")
    while slow.lag is None:
        harness.publish("a", b"x" * 1000)
        harness.turn()
        assert b"xxx" in harness.read(ready)
    harness.publish_at_once("a", b"the last")
    assert harness.read(ready) == b"data: the last\nid: 0-%d\n\n" % harness.last
    assert slow.lag is not None
    assert harness.log("a").trim_barrier != harness.last, "the pass isn't over"
    harness.turn()
    assert harness.log("a").trim_barrier == harness.last
    assert harness.hub.feeds.backlog == 0


@pytest.mark.uncompiled
async def test_a_defect_at_once_is_not_silent(harness: HubHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    await harness.subscribe("a")
    monkeypatch.setattr(fanout, "write_each", lambda *_write: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        harness.publish_at_once("a", b"1")
    assert isinstance(harness.hub.failure, ZeroDivisionError)


async def test_nothing_follows_the_end_of_a_topic_on_the_same_connection(harness: HubHarness) -> None:
    first = await harness.subscribe("a", "b")
    harness.delete("a")
    second = await harness.subscribe("a", "b")
    harness.publish("a", b"of the new topic")
    harness.run()
    assert b"of the new topic" not in harness.read(first)
    assert b"of the new topic" in harness.read(second)


@pytest.mark.uncompiled
async def test_a_defect_in_fan_out_is_not_silent(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.subscribe("a")
    monkeypatch.setattr(harness.hub.feeds, "passed", lambda *_pass: 1 / 0)
    harness.publish("a", b"1")
    with pytest.raises(ZeroDivisionError):
        harness.turn()
    assert isinstance(harness.hub.failure, ZeroDivisionError)


async def test_i3_a_turn_is_short_also_if_much_is_due_to_each(harness: HubHarness) -> None:
    for _ in range(WRITES_PER_TURN):
        await harness.subscribe("a")
    for _ in range(30):
        harness.publish("a", b"x" * 20_000)  # ten pieces for each
    harness.turn()
    lagging_or_served = sum(one.cursor > 0 for one in harness.hub.subscribers)
    assert 0 < lagging_or_served <= WRITES_PER_TURN // 9
    harness.run()
    assert all(one.cursor > 0 for one in harness.hub.subscribers)


async def test_a_turn_writes_to_at_least_one_however_much_is_due(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "PIECE_BYTES", 1)
    subscriber = await harness.subscribe("a")
    harness.publish("a", b"x" * 2 * WRITES_PER_TURN)
    harness.turn()
    assert subscriber.cursor == 1


async def test_streams_of_many_topics_cost_little_more_than_those_of_few(harness: HubHarness) -> None:
    """Each reads a set of topics of its own, and one of the topics gets an event: 52 us a delivery instead of 10."""
    work = []
    for hot, width in (("a", 2), ("b", 32)):
        for number in range(10):
            await harness.subscribe(hot, *(f"{hot}.{number}.{other}" for other in range(1, width)))
        harness.publish(hot, b"1")
        harness.run()
        harness.publish(hot, b"2")
        work.append(bytecodes(harness.run))
    few, many = work
    assert many < 2.5 * few


@pytest.mark.uncompiled
async def test_a_burst_leaves_as_one_write_in_the_envelope_form_too(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fanout, "write_each", noting(sent))
    await harness.subscribe("a", is_enveloped=True)
    for _ in range(2 * FRESH_ENVELOPES):
        harness.publish("a", b"")
    harness.run()
    assert [written for _, written in sent] == [1]


async def test_envelopes_are_made_in_small_parts(harness: HubHarness) -> None:
    """The first replay of 60,000 events in the envelope form took 1.4 s; others wait for a turn of it, not for all."""
    for _ in range(5000):
        harness.publish("a", b"")
    harness.run()
    subscriber = await harness.subscribe("a", cursor=0, is_enveloped=True)

    def made() -> int:
        return sum(entry.enveloped is not None for entry in harness.log("a").after(0))

    assert made() <= FRESH_ENVELOPES
    decoder, ids = Decoder(), [0]
    async with asyncio.timeout(WAIT_SECONDS):
        while ids[-1] < harness.last:
            before = made()
            harness.turn()
            assert made() - before <= FRESH_ENVELOPES * BATCHES_PER_TURN
            ids += [int(event.id.split("-")[1]) for event in decoder.feed(harness.read(subscriber))]
            await asyncio.sleep(0)
    assert ids == list(range(5001))
