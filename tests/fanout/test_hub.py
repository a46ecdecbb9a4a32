"""Fan-out: order, slices, those who lag, what is held and for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import pytest

from broker import sse
from broker.fanout import fanout
from broker.fanout.fanout import MOVE_WRITES, SLICE_WRITES
from broker.fanout.feed import PIECE_BYTES
from broker.fanout.subscriber import CloseReason, Subscriber, write_each
from broker.sse import Decoder
from broker.topics import Retention
from tests.hub_bench import Bench


def data(*texts: bytes) -> list[bytes]:
    return [b"data: %b\n" % text for text in texts]


async def test_events_of_one_turn_leave_as_one_write(bench: Bench) -> None:
    subscriber = await bench.subscribe("a")
    for text in (b"1", b"2", b"3"):
        bench.publish("a", text)
    assert bench.read(subscriber) == b""
    bench.turn()
    assert bench.read(subscriber) == b"".join(
        line + b"id: 0-%d\n\n" % number for number, line in enumerate(data(b"1", b"2", b"3"), 1)
    )
    assert bench.hub.delivered == 3
    assert bench.hub.backlog == 0


def noting(sent: list[tuple[int, int]]) -> Callable[[Sequence[Subscriber], int, bytes, int, float], int]:
    """`write_each`, which notes in `sent` which bytes it has written, and to how many."""

    def write(group: Sequence[Subscriber], cursor: int, chunk: bytes, end: int, now: float) -> int:
        written = write_each(group, cursor, chunk, end, now)
        sent.append((id(chunk), written))
        return written

    return write


async def test_i5_an_event_is_encoded_once_and_its_bytes_are_shared(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fanout, "write_each", noting(sent))
    for _ in range(SLICE_WRITES * 2):
        await bench.subscribe("a")
    bench.publish("a", b"1")
    bench.run()
    (entry,) = bench.log("a").after(0)
    assert {chunk for chunk, _ in sent} == {id(entry.frame)}
    assert sum(written for _, written in sent) == SLICE_WRITES * 2


async def test_i5_an_envelope_is_encoded_once(bench: Bench) -> None:
    bench.publish("a", b"1")
    log = bench.log("a")
    (entry,) = log.after(0)
    assert log.enveloped("a", entry) is log.enveloped("a", entry)


async def test_fan_out_is_cut_into_slices(bench: Bench) -> None:
    subscribers = [await bench.subscribe("a") for _ in range(SLICE_WRITES * 2)]
    bench.publish("a", b"1")
    bench.turn()
    served = sum(bool(bench.read(subscriber)) for subscriber in subscribers)
    assert 0 < served <= SLICE_WRITES
    bench.publish("a", b"2")  # in mid-pass: nobody misses it, nobody gets anything twice
    bench.run()
    assert bench.hub.delivered == 2 * len(subscribers)
    assert all(subscriber.cursor == bench.last for subscriber in subscribers)


async def test_who_comes_and_goes_during_a_pass_changes_nothing_for_the_others(bench: Bench) -> None:
    subscribers = [await bench.subscribe("a") for _ in range(SLICE_WRITES * 3)]
    bench.publish("a", b"1")
    bench.turn()
    gone = subscribers[::7] + subscribers[-20:]
    for subscriber in set(gone):
        bench.hub.cut(subscriber, CloseReason.CLIENT)
    late = [await bench.subscribe("a") for _ in range(10)]
    bench.publish("a", b"2")
    bench.run()
    expected = b"".join(data(b"1", b"2"))
    for subscriber in set(subscribers) - set(gone):
        lines = [line + b"\n" for line in bench.read(subscriber).split(b"\n") if line.startswith(b"data")]
        assert b"".join(lines) == expected
    for subscriber in late:
        assert bench.read(subscriber).count(b"data: 2\n") == 1


async def test_a_small_feed_does_not_wait_for_the_pass_over_a_large_one(bench: Bench) -> None:
    for _ in range(SLICE_WRITES * 4):
        await bench.subscribe("large")
    small = await bench.subscribe("small")
    bench.publish("large", b"1")
    bench.publish("small", b"1")
    turns = 0
    while not bench.read(small):
        assert bench.turn()
        turns += 1
    assert turns <= 3


async def test_i1_several_topics_come_merged_in_the_order_of_ids(bench: Bench) -> None:
    subscriber = await bench.subscribe("a", "b", "c")
    for number in range(60):
        bench.publish("cab"[number % 3], b"x")
        if number % 7 == 0:
            bench.turn()
    bench.run()
    assert await bench.read_all(subscriber, bench.last) == list(range(1, 61))


async def test_i2_a_burst_larger_than_the_retention_reaches_all_who_are_up_to_date(bench: Bench) -> None:
    bench.retention = Retention(1, 1, 1e9)
    subscribers = [await bench.subscribe("a") for _ in range(3)]
    for number in range(500):
        bench.publish("a", b"%d" % number)
    bench.run()
    for subscriber in subscribers:
        assert await bench.read_all(subscriber, bench.last) == list(range(1, 501))
    assert len(bench.log("a")) == 1  # what was held is trimmed as soon as it is written


async def test_what_is_held_goes_when_the_last_subscriber_leaves(bench: Bench) -> None:
    bench.retention = Retention(1, 1, 1e9)
    subscriber = await bench.subscribe("a")
    for _ in range(50):
        bench.publish("a", b"x")
    assert len(bench.log("a")) == 50
    assert bench.hub.backlog > 0
    bench.hub.cut(subscriber, CloseReason.CLIENT)
    assert len(bench.log("a")) == 1
    assert bench.hub.backlog == 0
    bench.run()
    assert bench.hub.backlog == 0


async def test_held_until_every_feed_of_the_topic_is_written(bench: Bench) -> None:
    bench.retention = Retention(1, 1, 1e9)
    alone = [await bench.subscribe("a") for _ in range(SLICE_WRITES)]
    both = await bench.subscribe("a", "b")
    for _ in range(20):
        bench.publish("a", b"x")
        bench.turn()
    bench.run()
    assert await bench.read_all(both, bench.last) == list(range(1, 21))
    assert await bench.read_all(alone[0], bench.last) == list(range(1, 21))
    assert len(bench.log("a")) == 1


async def test_i4_a_subscriber_that_does_not_read_costs_one_piece(bench: Bench) -> None:
    stuck = await bench.subscribe("a")
    good = await bench.subscribe("a")
    seen: list[int] = []
    for _ in range(100):
        bench.publish("a", b"x" * 10_000)
        seen += await bench.read_all(good, bench.last)
    assert seen == list(range(1, 101))
    assert stuck.lag is not None
    assert good.lag is None
    assert 0 < stuck._transport.get_write_buffer_size() <= PIECE_BYTES


async def test_who_lagged_catches_up_in_order(bench: Bench) -> None:
    subscriber = await bench.subscribe("a")
    for _ in range(100):
        bench.publish("a", b"x" * 10_000)
        bench.run()
    assert subscriber.lag is not None
    assert await bench.read_all(subscriber, bench.last) == list(range(1, 101))
    bench.run()
    assert subscriber.lag is None
    bench.publish("a", b"live again")
    bench.run()
    assert b"live again" in bench.read(subscriber)


async def test_a_replay_is_written_piece_by_piece_and_joins_live_events(bench: Bench) -> None:
    for _ in range(60):
        bench.publish("a", b"x" * 10_000)
    subscriber = await bench.subscribe("a", cursor=0)
    assert subscriber.lag is not None
    bench.publish("a", b"live")
    assert await bench.read_all(subscriber, bench.last) == list(range(1, 62))


async def test_slow_subscriber_is_closed_not_waited_for(bench: Bench) -> None:
    stuck = await bench.subscribe("a")
    bench.publish("a", b"x" * 500_000)
    bench.run()
    bench.hub.walk()
    bench.now += 29
    bench.hub.walk()
    assert stuck.feed is not None
    bench.now += 2
    bench.hub.walk()
    assert stuck.feed is None
    async with asyncio.timeout(10):
        while not bench.closed:
            await asyncio.sleep(0)
    assert bench.closed == [CloseReason.SLOW]
    assert bench.released == ["a"]


async def test_who_still_moves_is_not_stuck(bench: Bench) -> None:
    slow = await bench.subscribe("a")
    bench.publish("a", b"x" * 300_000)
    bench.run()
    read = 0
    while read < 300_000:
        bench.now += 25
        bench.hub.walk()
        assert slow.feed is not None, f"cut after {read} bytes"
        async with asyncio.timeout(10):
            got = 0
            while got < 24_000:
                try:
                    got += len(bench.far[slow].recv(24_000 - got))
                except BlockingIOError:
                    await asyncio.sleep(0)
                if read + got >= 300_000:
                    break
        read += got
        await asyncio.sleep(0)
    assert not bench.closed


async def test_whom_the_log_has_moved_past_gets_the_rest_of_its_piece_and_is_closed(bench: Bench) -> None:
    bench.retention = Retention(2, 1 << 30, 1e9)
    slow = await bench.subscribe("a")
    for _ in range(60):
        bench.publish("a", b"x" * 10_000)
        bench.run()
    assert slow.lag is not None
    decoder, ids = Decoder(), []
    async with asyncio.timeout(10):
        while not bench.closed:
            ids += [int(event.id.split("-")[1]) for event in decoder.feed(bench.read(slow))]
            bench.run()
            bench.hub.walk()
            await asyncio.sleep(0)
    decoder.feed(bench.read(slow))
    assert bench.closed == [CloseReason.SLOW]
    assert ids == list(
        range(1, len(ids) + 1)
    )  # whole events, in order, none missing up to where it was closed
    assert len(ids) < 60
    assert bench.log("a").has_gap(ids[-1])


async def test_who_was_finished_is_closed_as_soon_as_it_has_everything(bench: Bench) -> None:
    bench.publish("a", b"x" * 100_000)
    slow = await bench.subscribe("a", cursor=0)
    bench.hub.finish(slow, CloseReason.DRAINING, sse.retry(1))
    bench.hub.walk()
    await asyncio.sleep(0)
    assert not bench.closed  # it has not read yet
    data = b""
    async with asyncio.timeout(10):
        while not bench.closed:
            data += bench.read(slow)
            bench.hub.walk()
            await asyncio.sleep(0)
    data += bench.read(slow)
    assert data.endswith(b"id: 0-1\n\nretry: 1\n")
    assert bench.closed == [CloseReason.DRAINING]


async def test_heartbeats_only_to_the_silent_and_only_once(bench: Bench) -> None:
    silent, served = await bench.subscribe("a"), await bench.subscribe("b")
    bench.now += 10
    bench.publish("b", b"x")
    bench.run()
    bench.read(served)
    bench.now += 6
    bench.hub.walk()
    bench.hub.walk()
    assert bench.read(silent) == sse.HEARTBEAT
    assert bench.read(served) == b""
    bench.now += 15
    bench.hub.walk()
    assert bench.read(silent) == bench.read(served) == sse.HEARTBEAT


@pytest.mark.parametrize("bench", [100], indirect=True)
async def test_the_old_are_ended_spread_over_the_last_fifth_of_their_time(bench: Bench) -> None:
    subscribers = [await bench.subscribe("a") for _ in range(200)]
    left = []
    for _ in range(100):
        bench.now += 1
        bench.hub.walk()
        bench.run()
        left.append(sum(subscriber.feed is not None for subscriber in subscribers))
    assert left[79] == 200
    assert left[99] == 0
    assert 60 < left[89] < 140, "half of them after half of that time, give or take eight deviations"
    ended = bench.read(subscribers[0])
    assert ended.removeprefix(sse.HEARTBEAT * ended.count(sse.HEARTBEAT)) == b"retry: 1\n"


@pytest.mark.parametrize("bench", [100], indirect=True)
async def test_who_is_ended_for_age_has_everything_first(bench: Bench) -> None:
    subscriber = await bench.subscribe("a")
    bench.now += 100
    bench.publish("a", b"x")
    bench.hub.walk()
    assert bench.read(subscriber) == b"data: x\nid: 0-1\n\nretry: 1\n"


async def test_a_peer_that_acknowledges_no_heartbeat_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished, there = await bench.subscribe("a"), await bench.subscribe("a")
    in_kernel = {
        vanished: 2
    }  # a half-open peer can't be had without a network to cut: the kernel's figure stands for it
    monkeypatch.setattr(Subscriber, "_unacknowledged", lambda one: in_kernel.get(one, 0))
    bench.now += 15
    bench.hub.walk()
    assert vanished.lag is not None
    bench.publish("a", b"waits for its answer")
    bench.run()
    assert bench.read(vanished) == b""
    for _ in range(2):
        bench.now += 14
        bench.hub.walk()
    in_kernel[vanished] = 0
    bench.hub.walk()
    bench.run()
    assert vanished.lag is None
    assert b"waits for its answer" in bench.read(vanished)
    in_kernel[vanished] = 2
    for _ in range(4):
        bench.now += 15
        bench.hub.walk()
    async with asyncio.timeout(10):
        while not bench.closed:
            await asyncio.sleep(0)
    assert bench.closed == [CloseReason.TIMEOUT]
    assert there.feed is not None


async def test_walk_goes_over_everybody_in_slices(bench: Bench) -> None:
    subscribers = [await bench.subscribe("a") for _ in range(SLICE_WRITES * 2 + 5)]
    bench.now += 16
    bench.hub.walk()
    bench.hub.walk()  # while one is underway: nothing
    bench.run()
    assert all(bench.read(subscriber) == sse.HEARTBEAT for subscriber in subscribers)


async def test_end_of_one_of_several_topics_loses_nothing_of_the_others(bench: Bench) -> None:
    bench.retention = Retention(1, 1, 1e9)
    both = await bench.subscribe("a", "b")
    only_b = await bench.subscribe("b")
    bench.delete("a")
    for _ in range(20):
        bench.publish("b", b"x")
    bench.run()
    assert (await bench.read_all(both, bench.last))[1:] == await bench.read_all(only_b, bench.last)
    assert bench.released == ["a"]
    assert both.feed is only_b.feed
    bench.delete("b")
    bench.run()
    async with asyncio.timeout(10):
        while len(bench.closed) < 2:
            await asyncio.sleep(0)
    assert set(bench.closed) == {CloseReason.ENDED}
    assert sorted(bench.released) == ["a", "b", "b"]


async def test_i3_the_end_of_many_topics_is_cut_into_slices(bench: Bench) -> None:
    bench.retention = Retention(1, 1, 1e9)
    *ending, lasting = topics = [f"t{number}" for number in range(32)]
    subscribers = [await bench.subscribe(*topics) for _ in range(SLICE_WRITES)]
    alone = await bench.subscribe("alone")
    for topic in ending:
        bench.delete(topic)
        bench.publish(lasting, b"x")
    bench.publish("alone", b"x")
    bench.turn()
    assert 0 < sum(one.cursor > 0 for one in subscribers) <= SLICE_WRITES // MOVE_WRITES
    bench.turn()
    assert alone.cursor == bench.last, "nobody else waits for it"
    bench.run()
    assert {one.feed.key.topics for one in subscribers if one.feed} == {(lasting,)}
    assert sorted(bench.released) == sorted(ending * len(subscribers))
    for subscriber in subscribers[::50]:
        assert await bench.read_all(subscriber, bench.last - 1) == list(range(1, bench.last))


async def test_many_with_the_same_ends_are_written_the_same_bytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fanout, "write_each", noting(sent))
    for _ in range(SLICE_WRITES):
        await bench.subscribe("a", "b", "c")
    bench.delete("a")
    bench.delete("b")
    bench.run()
    assert len({chunk for chunk, _ in sent}) == 1
    assert sum(written for _, written in sent) == SLICE_WRITES


async def test_those_with_the_same_cursor_are_written_together_on_several_topics_too(bench: Bench) -> None:
    first = [await bench.subscribe("a", "b") for _ in range(5)]
    bench.publish("a", b"1")
    bench.publish("other", b"1")
    bench.run()
    second = [await bench.subscribe("a", "b") for _ in range(5)]
    bench.publish("b", b"2")
    bench.run()
    assert {subscriber.cursor for subscriber in first + second} == {bench.last}
    assert await bench.read_all(first[0], 3) == [1, 3]
    assert await bench.read_all(second[0], 3) == [3]


async def test_nothing_follows_the_end_of_a_topic_on_the_same_connection(bench: Bench) -> None:
    first = await bench.subscribe("a", "b")
    bench.delete("a")
    second = await bench.subscribe("a", "b")
    bench.publish("a", b"of the new topic")
    bench.run()
    assert b"of the new topic" not in bench.read(first)
    assert b"of the new topic" in bench.read(second)


async def test_floors_let_topics_start_at_different_points(bench: Bench) -> None:
    for number in range(8):
        bench.publish("ab"[number % 2], b"x")
    subscriber = await bench.subscribe("a", "b", cursor=2, floors=(5, 2))
    assert await bench.read_all(subscriber, bench.last) == [4, 6, 7, 8]
    assert subscriber.feed is not None
    assert subscriber.feed.key.floors == ()  # it shares the feed of all others from here on
    bench.publish("a", b"x")
    bench.run()
    assert await bench.read_all(subscriber, bench.last) == [9]


async def test_a_defect_in_fan_out_is_not_silent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.subscribe("a")
    monkeypatch.setattr(bench.hub._fan_out, "_fan_out", lambda: 1 / 0)
    bench.publish("a", b"1")
    with pytest.raises(ZeroDivisionError):
        bench.turn()
    assert isinstance(bench.hub.failure, ZeroDivisionError)


async def test_a_slice_is_small_also_when_much_is_due(bench: Bench) -> None:
    for _ in range(SLICE_WRITES):
        await bench.subscribe("a")
    for _ in range(30):
        bench.publish("a", b"x" * 20_000)  # ten pieces for each
    bench.turn()
    lagging_or_served = sum(one.cursor > 0 for one in bench.hub.subscribers)
    assert 0 < lagging_or_served <= SLICE_WRITES // 9
    bench.run()
    assert all(one.cursor > 0 for one in bench.hub.subscribers)


async def test_many_feeds_of_one_topic_share_what_is_on_its_way(bench: Bench) -> None:
    for number in range(50):
        await bench.subscribe("common", f"own{number}")
    size = len(sse.frame(sse.lines(b"x" * 100), 1))
    for _ in range(9):
        bench.publish("common", b"x" * 100)
    assert bench.hub.backlog == bench.hub.backlog_of("common") == 9 * size
    bench.run()
    assert bench.hub.backlog == 0


async def test_i9_a_defect_with_one_connection_stops_no_heartbeat_but_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await bench.subscribe("a"), await bench.subscribe("a")
    look = Subscriber.is_acknowledged
    monkeypatch.setattr(Subscriber, "is_acknowledged", lambda one: 1 / 0 if one is bad else look(one))
    bench.now += 16
    bench.hub.walk()
    assert bench.read(good) == sse.HEARTBEAT
    assert isinstance(bench.hub.failure, ZeroDivisionError)
    bench.now += 16
    bench.hub.walk()
    assert bench.read(good) == sse.HEARTBEAT


async def test_drained_subscribers_get_what_was_published_first(bench: Bench) -> None:
    subscriber = await bench.subscribe("a", "b")
    bench.publish("a", b"answered")
    bench.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1234))
    assert bench.read(subscriber) == b"data: answered\nid: 0-1\n\nretry: 1234\n"


async def test_who_has_left_without_reading_is_held_until_it_stands_still(bench: Bench) -> None:
    for _ in range(20):
        bench.publish("a", b"x" * 10_000)
    subscriber = await bench.subscribe("a", cursor=0)
    bench.far[subscriber].shutdown(socket.SHUT_WR)
    async with asyncio.timeout(10):
        while subscriber.feed is not None:
            await asyncio.sleep(0)
    assert len(bench.hub) == 1  # it still counts: the kernel holds bytes for it
    bench.hub.walk()
    bench.now += 31
    bench.hub.walk()
    async with asyncio.timeout(10):
        while not bench.closed:
            await asyncio.sleep(0)
    assert bench.closed == [CloseReason.CLIENT]


async def test_nothing_stays_of_who_has_left(bench: Bench) -> None:
    subscribers = [
        await bench.subscribe(*topics)
        for topics in (("a",), ("a", "b"), ("b",), ("a", "b"))
        for _ in range(5)
    ]
    for far in bench.far.values():
        far.close()
    async with asyncio.timeout(10):
        while len(bench.closed) < len(subscribers):
            await asyncio.sleep(0)
    assert len(bench.hub) == 0
    assert len(bench.hub._feeds) == 0
    assert bench.log("a").hold is None
    assert sorted(bench.released) == ["a"] * 15 + ["b"] * 15
