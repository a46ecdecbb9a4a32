"""Fan-out: order, slices, those who lag, what is held and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

import pytest

from broker import sse
from broker.fanout import fanout, feed
from broker.fanout.fanout import BATCHES_PER_TURN, MOVE_WRITES, WRITES_PER_TURN
from broker.fanout.feed import PIECE_BYTES
from broker.fanout.subscriber import CloseReason, Subscriber, write_each
from broker.sse import Decoder
from broker.topics import Retention
from tests.support.hub_harness import HubHarness, reset


def data(*texts: bytes) -> list[bytes]:
    return [b"data: %b\n" % text for text in texts]


async def test_events_of_one_turn_leave_as_one_write(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    for text in (b"1", b"2", b"3"):
        harness.publish("a", text)
    assert harness.read(subscriber) == b""
    harness.turn()
    assert harness.read(subscriber) == b"".join(
        line + b"id: 0-%d\n\n" % number for number, line in enumerate(data(b"1", b"2", b"3"), 1)
    )
    assert harness.hub.fan_out.delivered_events == 3
    assert harness.hub.feeds.backlog == 0


def noting(sent: list[tuple[int, int]]) -> Callable[[Sequence[Subscriber], int, bytes, int, float], int]:
    """`write_each`, which notes in `sent` which bytes it has written, and to how many."""

    def write(group: Sequence[Subscriber], cursor: int, chunk: bytes, end: int, now: float) -> int:
        written = write_each(group, cursor, chunk, end, now)
        sent.append((id(chunk), written))
        return written

    return write


async def test_i5_an_event_is_encoded_once_and_its_bytes_are_shared(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fanout, "write_each", noting(sent))
    for _ in range(WRITES_PER_TURN * 2):
        await harness.subscribe("a")
    harness.publish("a", b"1")
    harness.run()
    (entry,) = harness.log("a").after(0)
    assert {chunk for chunk, _ in sent} == {id(entry.frame)}
    assert sum(written for _, written in sent) == WRITES_PER_TURN * 2


async def test_i5_an_envelope_is_encoded_once(harness: HubHarness) -> None:
    harness.publish("a", b"1")
    log = harness.log("a")
    (entry,) = log.after(0)
    assert log.enveloped("a", entry) is log.enveloped("a", entry)


@pytest.mark.parametrize("count", [WRITES_PER_TURN * 2, WRITES_PER_TURN * 3 // 2])
async def test_fan_out_is_cut_into_slices(harness: HubHarness, count: int) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(count)]
    harness.publish("a", b"1")
    harness.turn()
    served = sum(bool(harness.read(subscriber)) for subscriber in subscribers)
    assert 0 < served <= WRITES_PER_TURN
    harness.publish("a", b"2")  # in mid-pass: nobody misses it, nobody gets anything twice
    harness.run()
    assert harness.hub.fan_out.delivered_events == 2 * len(subscribers)
    assert all(subscriber.cursor == harness.last for subscriber in subscribers)


async def test_who_comes_and_goes_during_a_pass_changes_nothing_for_the_others(harness: HubHarness) -> None:
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


async def test_i1_several_topics_come_merged_in_the_order_of_ids(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", "b", "c")
    for number in range(60):
        harness.publish("cab"[number % 3], b"x")
        if number % 7 == 0:
            harness.turn()
    harness.run()
    assert await harness.read_all(subscriber, harness.last) == list(range(1, 61))


async def test_i2_a_burst_larger_than_the_retention_reaches_all_who_are_up_to_date(
    harness: HubHarness,
) -> None:
    harness.retention = Retention(1, 1, 1e9)
    subscribers = [await harness.subscribe("a") for _ in range(3)]
    for number in range(500):
        harness.publish("a", b"%d" % number)
    harness.run()
    for subscriber in subscribers:
        assert await harness.read_all(subscriber, harness.last) == list(range(1, 501))
    assert len(harness.log("a")) == 1  # what was held is trimmed as soon as it is written


async def test_what_is_held_goes_when_the_last_subscriber_leaves(harness: HubHarness) -> None:
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


async def test_held_until_every_feed_of_the_topic_is_written(harness: HubHarness) -> None:
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


async def test_i4_a_subscriber_that_does_not_read_costs_one_piece(harness: HubHarness) -> None:
    stuck = await harness.subscribe("a")
    good = await harness.subscribe("a")
    seen: list[int] = []
    for _ in range(100):
        harness.publish("a", b"x" * 10_000)
        seen += await harness.read_all(good, harness.last)
    assert seen == list(range(1, 101))
    assert stuck.lag is not None
    assert good.lag is None
    assert 0 < stuck._transport.get_write_buffer_size() <= PIECE_BYTES


async def test_who_lagged_catches_up_in_order(harness: HubHarness) -> None:
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
    assert harness.hub.fan_out.delivered_events == 61


async def test_to_be_told_twice_that_a_subscriber_can_be_written_to_is_harmless(harness: HubHarness) -> None:
    for _ in range(60):
        harness.publish("a", b"x" * 10_000)
    subscriber = await harness.subscribe("a", cursor=0)
    decoder, ids = Decoder(), [0]
    async with asyncio.timeout(10):
        while ids[-1] < harness.last:
            ids += [int(event.id.split("-")[1]) for event in decoder.feed(harness.read(subscriber))]
            harness.hub.flushed(subscriber)
            harness.hub.flushed(subscriber)
            harness.run()
            await asyncio.sleep(0)
    assert ids == list(range(61))


async def test_slow_subscriber_is_closed_not_waited_for(harness: HubHarness) -> None:
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
    async with asyncio.timeout(10):
        while not harness.closes:
            await asyncio.sleep(0)
    assert harness.closes == [CloseReason.SLOW]
    assert harness.released == ["a"]


async def test_who_still_moves_is_not_stuck(harness: HubHarness) -> None:
    slow = await harness.subscribe("a")
    harness.publish("a", b"x" * 300_000)
    harness.run()
    read = 0
    while read < 300_000:
        harness.now += 25
        harness.hub.sweep()
        assert slow.feed is not None, f"cut after {read} bytes"
        async with asyncio.timeout(10):
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


async def test_whom_the_log_has_moved_past_gets_the_rest_of_its_piece_and_is_closed(
    harness: HubHarness,
) -> None:
    harness.retention = Retention(2, 1 << 30, 1e9)
    slow = await harness.subscribe("a")
    for _ in range(60):
        harness.publish("a", b"x" * 10_000)
        harness.run()
    assert slow.lag is not None
    decoder, ids = Decoder(), []
    async with asyncio.timeout(10):
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


async def test_who_was_finished_is_closed_as_soon_as_it_has_everything(harness: HubHarness) -> None:
    harness.publish("a", b"x" * 100_000)
    slow = await harness.subscribe("a", cursor=0)
    harness.hub.finish(slow, CloseReason.DRAINING, sse.retry(1))
    harness.hub.sweep()
    await asyncio.sleep(0)
    assert not harness.closes  # it has not read yet
    data = b""
    async with asyncio.timeout(10):
        while not harness.closes:
            data += harness.read(slow)
            harness.hub.sweep()
            await asyncio.sleep(0)
    data += harness.read(slow)
    assert data.endswith(b"id: 0-1\n\nretry: 1\n")
    assert harness.closes == [CloseReason.DRAINING]


async def test_heartbeats_only_to_the_silent_and_only_once(harness: HubHarness) -> None:
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


@pytest.mark.parametrize("harness", [100], indirect=True)
async def test_the_old_are_ended_spread_over_the_last_fifth_of_their_time(harness: HubHarness) -> None:
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
async def test_who_is_ended_for_age_has_everything_first(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    harness.now += 100
    harness.publish("a", b"x")
    harness.hub.sweep()
    assert harness.read(subscriber) == b"data: x\nid: 0-1\n\nretry: 1\n"


async def test_a_peer_that_acknowledges_no_heartbeat_is_gone(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished, there = await harness.subscribe("a"), await harness.subscribe("a")
    in_kernel = {
        vanished: 2
    }  # a half-open peer can't be had without a network to cut: the kernel's figure stands for it
    monkeypatch.setattr(Subscriber, "_unacknowledged", lambda one: in_kernel.get(one, 0))
    harness.now += 15
    harness.hub.sweep()
    assert vanished.lag is not None
    harness.publish("a", b"waits for its answer")
    harness.run()
    assert harness.read(vanished) == b""
    for _ in range(2):
        harness.now += 14
        harness.hub.sweep()
    in_kernel[vanished] = 0
    harness.hub.sweep()
    harness.run()
    assert vanished.lag is None
    assert b"waits for its answer" in harness.read(vanished)
    in_kernel[vanished] = 2
    for _ in range(4):
        harness.now += 15
        harness.hub.sweep()
    async with asyncio.timeout(10):
        while not harness.closes:
            await asyncio.sleep(0)
    assert harness.closes == [CloseReason.TIMEOUT]
    assert there.feed is not None


async def test_walk_goes_over_everybody_in_slices(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(WRITES_PER_TURN * 2 + 5)]
    harness.now += 16
    harness.hub.sweep()
    harness.hub.sweep()  # while one is underway: nothing
    harness.run()
    assert all(harness.read(subscriber) == sse.HEARTBEAT for subscriber in subscribers)


async def test_end_of_one_of_several_topics_loses_nothing_of_the_others(harness: HubHarness) -> None:
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
    async with asyncio.timeout(10):
        while len(harness.closes) < 2:
            await asyncio.sleep(0)
    assert set(harness.closes) == {CloseReason.ENDED}
    assert sorted(harness.released) == ["a", "b", "b"]


async def test_i3_the_end_of_many_topics_is_cut_into_slices(harness: HubHarness) -> None:
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
    assert alone.cursor == harness.last, "nobody else waits for it"
    harness.run()
    assert {one.feed.key.topics for one in subscribers if one.feed} == {(lasting,)}
    assert sorted(harness.released) == sorted(ending * len(subscribers))
    for subscriber in subscribers[::50]:
        assert await harness.read_all(subscriber, harness.last - 1) == list(range(1, harness.last))


async def test_many_with_the_same_ends_are_written_the_same_bytes(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fanout, "write_each", noting(sent))
    for _ in range(WRITES_PER_TURN):
        await harness.subscribe("a", "b", "c")
    harness.delete("a")
    harness.delete("b")
    harness.run()
    assert len({chunk for chunk, _ in sent}) == 1
    assert sum(written for _, written in sent) == WRITES_PER_TURN


async def test_a_gap_is_told_only_to_a_cursor_that_lies_before_it(harness: HubHarness) -> None:
    """The gap's entry follows 3: a cursor at 3 has missed nothing."""
    harness.publish("a", b"1")
    before, at = await harness.subscribe("a", cursor=2), await harness.subscribe("a", cursor=3)
    harness.publish_after_gap("a", b"5", prev=3)
    harness.run()
    event = b"data: 5\nid: 0-4\n\n"
    assert harness.read(before) == sse.gap("a", "0-2", "lost") + event
    assert harness.read(at) == event
    assert harness.gaps == ["lost"]


async def test_a_gap_before_where_a_topic_starts_is_not_told(harness: HubHarness) -> None:
    """The subscriber starts `a` at 3, where the gap ends, though its cursor, for `b`, lies before it."""
    harness.publish("b", b"1")
    harness.publish("a", b"2")
    harness.publish_after_gap("a", b"4", prev=3)
    at = await harness.subscribe("a", "b", cursor=1, floors=(3, 1))
    before = await harness.subscribe("a", "b", cursor=1, floors=(2, 1))
    harness.run()
    event = b"data: 4\nid: 0-4\n\n"
    assert harness.read(at) == event
    assert harness.read(before) == sse.gap("a", "0-1", "lost") + event


async def test_a_loss_that_several_topics_share_is_told_of_each(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", "b", cursor=0)
    harness.lose("a", "b")
    harness.publish("b", b"2")
    harness.run()
    gaps = sse.gap("a", "0-0", "lost") + sse.gap("b", "0-0", "lost")
    assert harness.read(subscriber) == gaps + b"data: 2\nid: 0-2\n\n"
    assert (harness.gaps, harness.hub.fan_out.delivered_events) == (["lost", "lost"], 1)


def text_of(frame_bytes: int, event_id: int) -> bytes:
    """The data of an event whose frame has so many bytes."""
    return b"x" * (frame_bytes - len(sse.frame(sse.lines(b""), event_id)))


@pytest.mark.parametrize("more", [0, 1])
async def test_a_piece_is_filled_to_the_last_byte_and_no_further(harness: HubHarness, more: int) -> None:
    first = sse.frame(sse.lines(b"x"), 1)
    harness.publish("a", b"x")
    harness.publish("a", text_of(PIECE_BYTES - len(first) + more, 2))
    subscriber = await harness.subscribe("a", cursor=0)
    assert subscriber.cursor == 2 - more


@pytest.mark.parametrize("more", [0, 1])
async def test_a_piece_behind_the_end_of_a_topic_is_filled_likewise(harness: HubHarness, more: int) -> None:
    harness.close("a")
    harness.publish("b", text_of(PIECE_BYTES - len(sse.end("a", "closed", 1)) + more, 2))
    subscriber = await harness.subscribe("a", "b", cursor=0)
    assert subscriber.cursor == 2 - more


async def test_an_event_larger_than_a_piece_is_a_piece(harness: HubHarness) -> None:
    for event_id in (1, 2):
        harness.publish("a", text_of(PIECE_BYTES + 1, event_id))
    subscriber = await harness.subscribe("a", cursor=0)
    assert subscriber.cursor == 1


async def test_i2_no_piece_ends_within_a_loss_that_several_topics_share(harness: HubHarness) -> None:
    """Its entries have one id: whoever had only some of them could not be told of the others by its cursor."""
    harness.publish("a", text_of(PIECE_BYTES - len(sse.gap("a", "0-1", "lost")), 1))
    harness.lose("a", "b")
    await harness.subscribe("a", "b", cursor=0)
    assert harness.gaps == ["lost", "lost"]


async def test_i3_a_turn_brings_only_a_few_replays_on(
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


async def test_i2_several_topics_are_written_only_as_far_as_all_of_them_are_complete(
    harness: HubHarness,
) -> None:
    """One topic alone needs no such care: its log says itself what came before each event."""
    harness.incomplete_after = 0
    alone, both = await harness.subscribe("a", cursor=0), await harness.subscribe("a", "b", cursor=0)
    harness.publish("a", b"1")
    harness.publish("b", b"2")
    harness.run()
    assert harness.read(alone) == b"data: 1\nid: 0-1\n\n"
    assert harness.read(both) == b""
    for complete_to in (1, 2):
        harness.incomplete_after = complete_to
        harness.hub.fan_out.delivered("b", 0)
        harness.run()
        assert harness.read(both) == b"data: %d\nid: 0-%d\n\n" % (complete_to, complete_to)
    harness.incomplete_after = None


async def test_those_with_the_same_cursor_are_written_together_on_several_topics_too(
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
    assert harness.hub.fan_out.delivered_events == 5 * 2 + 5
    assert await harness.read_all(first[0], 3) == [1, 3]
    assert await harness.read_all(second[0], 3) == [3]


async def test_nothing_follows_the_end_of_a_topic_on_the_same_connection(harness: HubHarness) -> None:
    first = await harness.subscribe("a", "b")
    harness.delete("a")
    second = await harness.subscribe("a", "b")
    harness.publish("a", b"of the new topic")
    harness.run()
    assert b"of the new topic" not in harness.read(first)
    assert b"of the new topic" in harness.read(second)


async def test_floors_let_topics_start_at_different_points(harness: HubHarness) -> None:
    for number in range(8):
        harness.publish("ab"[number % 2], b"x")
    subscriber = await harness.subscribe("a", "b", cursor=2, floors=(5, 2))
    assert await harness.read_all(subscriber, harness.last) == [4, 6, 7, 8]
    assert subscriber.feed is not None
    assert subscriber.feed.key.floors == ()  # it shares the feed of all others from here on
    harness.publish("a", b"x")
    harness.run()
    assert await harness.read_all(subscriber, harness.last) == [9]


async def test_a_replay_is_not_cut_for_what_was_gone_where_it_starts(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` has lost 4 and 5, of which a subscriber that starts it at 5 was told; its cursor, for `b`, lies before that."""
    monkeypatch.setattr(feed, "PIECE_BYTES", 1)
    for _ in range(3):
        harness.publish("b", b"x")
    harness.log("a").retention = Retention(1, 1 << 30, 1e9)
    for _ in range(3):
        harness.publish("a", b"x")
    subscriber = await harness.subscribe("a", "b", cursor=0, floors=(5, 0))
    assert await harness.read_all(subscriber, 6) == [1, 2, 3, 6]


async def test_a_defect_in_fan_out_is_not_silent(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.subscribe("a")
    monkeypatch.setattr(harness.hub.feeds, "begin_pass", lambda _group: 1 / 0)
    harness.publish("a", b"1")
    with pytest.raises(ZeroDivisionError):
        harness.turn()
    assert isinstance(harness.hub.failure, ZeroDivisionError)


async def test_a_slice_is_small_also_when_much_is_due(harness: HubHarness) -> None:
    for _ in range(WRITES_PER_TURN):
        await harness.subscribe("a")
    for _ in range(30):
        harness.publish("a", b"x" * 20_000)  # ten pieces for each
    harness.turn()
    lagging_or_served = sum(one.cursor > 0 for one in harness.hub.subscribers)
    assert 0 < lagging_or_served <= WRITES_PER_TURN // 9
    harness.run()
    assert all(one.cursor > 0 for one in harness.hub.subscribers)


async def test_a_slice_has_somebody_in_it_however_much_is_due(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "PIECE_BYTES", 1)
    subscriber = await harness.subscribe("a")
    harness.publish("a", b"x" * 2 * WRITES_PER_TURN)
    harness.turn()
    assert subscriber.cursor == 1


async def test_many_feeds_of_one_topic_share_what_is_on_its_way(harness: HubHarness) -> None:
    for number in range(50):
        await harness.subscribe("common", f"own{number}")
    size = len(sse.frame(sse.lines(b"x" * 100), 1))
    for _ in range(9):
        harness.publish("common", b"x" * 100)
    assert harness.hub.feeds.backlog == harness.hub.feeds.backlog_of("common") == 9 * size
    harness.run()
    assert harness.hub.feeds.backlog == 0


async def test_i9_a_defect_with_one_connection_stops_no_heartbeat_but_is_told(
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


@pytest.mark.parametrize("data", [b"", b"data: after\nid: 0-2\n\n"])
async def test_a_notice_comes_between_two_events_and_to_who_lags_only_the_latest(
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
    async with asyncio.timeout(10):
        while len(got) < len(wanted):
            got += harness.read(subscriber)
            harness.run()
            await asyncio.sleep(0)
    assert got == wanted


async def test_drained_subscribers_get_what_was_published_first(harness: HubHarness) -> None:
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


async def test_what_ends_a_stream_comes_after_what_the_transport_still_holds(harness: HubHarness) -> None:
    harness.publish("a", b"x" * 100_000)
    subscriber = await harness.subscribe("a", cursor=0)
    data = harness.read(subscriber)  # so that the socket has room again, and the transport doesn't know
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    async with asyncio.timeout(10):
        while not harness.closes:
            data += harness.read(subscriber)
            harness.hub.sweep()
            await asyncio.sleep(0)
    data += harness.read(subscriber)
    assert data == sse.frame(sse.lines(b"x" * 100_000), 1) + sse.retry(1)


async def test_i4_a_connection_that_is_cut_is_reset_so_that_the_kernel_keeps_nothing_for_it(
    harness: HubHarness,
) -> None:
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.hub.cut(subscriber, CloseReason.SLOW)
    await harness.closing()
    with pytest.raises(ConnectionResetError):
        harness.read(subscriber)


async def test_a_stream_is_ended_once(harness: HubHarness) -> None:
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    harness.hub.finish(subscriber, CloseReason.EXPIRED, sse.retry(2))
    data = harness.read(subscriber)
    harness.hub.sweep()
    await harness.closing()
    assert (data + harness.read(subscriber)).endswith(b"\n\nretry: 1\n")
    assert harness.closes == [CloseReason.DRAINING]


async def test_who_is_gone_already_has_left_and_was_not_ended(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    reset(harness.far[subscriber])
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    await harness.closing()
    assert harness.closes == [CloseReason.CLIENT]


async def test_who_is_gone_before_it_is_told_that_its_topic_has_ended_is_no_defect(
    harness: HubHarness,
) -> None:
    harness.close("a")
    subscriber = await harness.subscribe("a", cursor=0, is_gone=True)
    assert subscriber.feed is None
    await harness.closing()
    assert harness.closes == [CloseReason.CLIENT]


async def until_the_kernel_holds_bytes(harness: HubHarness) -> Subscriber:
    """A subscriber that reads just so much that the kernel takes everything, and still holds some of it."""
    subscriber = await harness.subscribe("a")
    while subscriber.lag is None:
        harness.publish("a", b"x" * 4000)
        harness.run()
    async with asyncio.timeout(10):
        while subscriber.lag is not None:
            with contextlib.suppress(BlockingIOError):
                harness.far[subscriber].recv(1000)
            harness.run()
            await asyncio.sleep(0)
    assert not subscriber.is_acknowledged()
    return subscriber


async def test_who_has_left_is_held_while_the_kernel_holds_bytes_for_it(harness: HubHarness) -> None:
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.far[subscriber].shutdown(socket.SHUT_WR)
    async with asyncio.timeout(10):
        while subscriber.feed is not None:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(harness.hub) == 1
    harness.read(subscriber)
    harness.hub.sweep()
    await harness.closing()
    assert harness.closes == [CloseReason.CLIENT]


async def test_who_leaves_with_everything_is_gone_at_once(harness: HubHarness) -> None:
    """Though it was being finished, and its acknowledgement was not yet seen."""
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.hub.finish(subscriber, CloseReason.DRAINING)
    assert len(harness.hub) == 1
    harness.read(subscriber)
    harness.far[subscriber].shutdown(socket.SHUT_WR)
    await harness.closing()
    assert harness.closes == [CloseReason.DRAINING]


async def test_who_has_left_without_reading_is_held_until_it_stands_still(harness: HubHarness) -> None:
    for _ in range(20):
        harness.publish("a", b"x" * 10_000)
    subscriber = await harness.subscribe("a", cursor=0)
    harness.far[subscriber].shutdown(socket.SHUT_WR)
    async with asyncio.timeout(10):
        while subscriber.feed is not None:
            await asyncio.sleep(0)
    assert len(harness.hub) == 1  # it still counts: the kernel holds bytes for it
    harness.hub.sweep()
    harness.now += 31
    harness.hub.sweep()
    async with asyncio.timeout(10):
        while not harness.closes:
            await asyncio.sleep(0)
    assert harness.closes == [CloseReason.CLIENT]


async def test_nothing_stays_of_who_has_left(harness: HubHarness) -> None:
    subscribers = [
        await harness.subscribe(*topics)
        for topics in (("a",), ("a", "b"), ("b",), ("a", "b"))
        for _ in range(5)
    ]
    for far in harness.far.values():
        far.close()
    async with asyncio.timeout(10):
        while len(harness.closes) < len(subscribers):
            await asyncio.sleep(0)
    assert len(harness.hub) == 0
    assert len(harness.hub.feeds) == 0
    assert harness.log("a").trim_barrier is None
    assert sorted(harness.released) == ["a"] * 15 + ["b"] * 15
