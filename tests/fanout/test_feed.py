"""The bytes of a feed: merges, pieces, gaps, floors."""

from __future__ import annotations

import pytest

from broker import sse
from broker.fanout import feed
from broker.fanout.feed import PIECE_BYTES, Feed, FeedKey
from broker.topics import Retention
from tests.support.hub_harness import HubHarness


def text_of(frame_bytes: int, event_id: int) -> bytes:
    """The data of an event with a frame of so many bytes."""
    return b"x" * (frame_bytes - len(sse.frame(sse.lines(b""), event_id)))


async def test_i5_an_envelope_is_encoded_once(harness: HubHarness) -> None:
    harness.publish("a", b"1")
    log = harness.log("a")
    (entry,) = log.after(0)
    assert log.enveloped("a", entry) is log.enveloped("a", entry)


async def test_i1_several_topics_are_merged_in_the_order_of_ids(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", "b", "c")
    for number in range(60):
        harness.publish("cab"[number % 3], b"x")
        if number % 7 == 0:
            harness.turn()
    harness.run()
    assert await harness.read_all(subscriber, harness.last) == list(range(1, 61))


async def test_a_gap_is_written_only_to_a_cursor_before_it(harness: HubHarness) -> None:
    """The gap's entry follows 3: a cursor at 3 has missed nothing."""
    harness.publish("a", b"1")
    before, at = await harness.subscribe("a", cursor=2), await harness.subscribe("a", cursor=3)
    harness.publish_after_gap("a", b"5", prev=3)
    harness.run()
    event = b"data: 5\nid: 0-4\n\n"
    assert harness.read(before) == sse.gap("a", "0-2", "lost") + event
    assert harness.read(at) == event
    assert harness.gaps == ["lost"]


async def test_a_gap_before_a_topics_floor_is_not_written(harness: HubHarness) -> None:
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


async def test_a_loss_that_several_topics_share_is_a_gap_in_each(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a", "b", cursor=0)
    harness.lose("a", "b")
    harness.publish("b", b"2")
    harness.run()
    gaps = sse.gap("a", "0-0", "lost") + sse.gap("b", "0-0", "lost")
    assert harness.read(subscriber) == gaps + b"data: 2\nid: 0-2\n\n"
    assert (harness.gaps, harness.hub.fan_out.sent.events) == (["lost", "lost"], 1)


@pytest.mark.parametrize("more", [0, 1])
async def test_a_piece_is_filled_to_the_last_byte_and_no_further(harness: HubHarness, more: int) -> None:
    first = sse.frame(sse.lines(b"x"), 1)
    harness.publish("a", b"x")
    harness.publish("a", text_of(PIECE_BYTES - len(first) + more, 2))
    subscriber = await harness.subscribe("a", cursor=0)
    assert subscriber.cursor == 2 - more


@pytest.mark.parametrize("is_enveloped", [False, True])
async def test_a_piece_ends_where_it_shall(harness: HubHarness, is_enveloped: bool) -> None:
    """What comes later in the log is for a later piece."""
    for _ in range(3):
        harness.publish("a", b"x")
    subscriber = await harness.subscribe("a", cursor=0)
    assert subscriber.feed is not None
    completeness = subscriber.feed._completeness
    read = Feed(FeedKey(("a",), enveloped=is_enveloped), (harness.log("a"),), completeness)
    for up_to in (1, 2, 3):
        piece = read.piece_after(0, up_to)
        assert piece is not None
        assert (piece.end, piece.events) == (up_to, up_to)


@pytest.mark.parametrize("more", [0, 1])
async def test_a_batch_across_the_end_of_a_topic_is_filled_to_the_last_byte_and_no_further(
    harness: HubHarness, more: int
) -> None:
    harness.close("a")
    harness.publish("b", text_of(PIECE_BYTES - len(sse.end("a", "closed", 1)) + more, 2))
    subscriber = await harness.subscribe("a", "b", cursor=0, chunked=False)
    assert subscriber.cursor == 2 - more


async def test_an_event_larger_than_a_piece_is_a_piece(harness: HubHarness) -> None:
    for event_id in (1, 2):
        harness.publish("a", text_of(PIECE_BYTES + 1, event_id))
    subscriber = await harness.subscribe("a", cursor=0)
    assert subscriber.cursor == 1


async def test_i2_no_piece_ends_within_a_loss_that_several_topics_share(harness: HubHarness) -> None:
    """Its entries have one id, so a cursor cannot lie between them."""
    harness.publish("a", text_of(PIECE_BYTES - len(sse.gap("a", "0-1", "lost")), 1))
    harness.lose("a", "b")
    await harness.subscribe("a", "b", cursor=0)
    assert harness.gaps == ["lost", "lost"]


async def test_i2_several_topics_are_written_only_as_far_as_all_of_them_are_complete(
    harness: HubHarness,
) -> None:
    """One topic alone needs no such care: the entries of its log have `prev`."""
    harness.incomplete_after = 0
    alone, both = await harness.subscribe("a", cursor=0), await harness.subscribe("a", "b", cursor=0)
    harness.publish("a", b"1")
    harness.publish("b", b"2")
    harness.run()
    assert harness.read(alone) == b"data: 1\nid: 0-1\n\n"
    late = await harness.subscribe("a", "b", cursor=0)
    harness.run()
    assert harness.read(both) == harness.read(late) == b""
    for complete_to in (1, 2):
        harness.incomplete_after = complete_to
        harness.hub.fan_out.delivered("b", 0)
        harness.run()
        event = b"data: %d\nid: 0-%d\n\n" % (complete_to, complete_to)
        assert harness.read(both) == harness.read(late) == event
    harness.incomplete_after = None


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


async def test_a_replay_is_not_closed_for_a_gap_before_its_floor(
    harness: HubHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` has lost 4 and 5; a subscriber that starts it at 5 had that gap in its preface. Its cursor, for `b`, is before 4."""
    monkeypatch.setattr(feed, "PIECE_BYTES", 1)
    for _ in range(3):
        harness.publish("b", b"x")
    harness.log("a").retention = Retention(1, 1 << 30, 1e9)
    for _ in range(3):
        harness.publish("a", b"x")
    subscriber = await harness.subscribe("a", "b", cursor=0, floors=(5, 0))
    assert await harness.read_all(subscriber, 6) == [1, 2, 3, 6]


async def test_i2_an_event_does_not_hide_the_gap_before_it(harness: HubHarness) -> None:
    """The store went back: the event's `prev`, from the store, lies before the gap that this instance has put in its log."""
    subscriber = await harness.subscribe("a")
    cursor = harness.publish("a", b"1")
    harness.run()
    harness.read(subscriber)
    log = harness.log("a")
    log.append_gap(cursor + 5, "lost")
    log.append_after(cursor, cursor + 6, sse.frame(sse.lines(b"2"), cursor + 6))
    harness.hub.fan_out.delivered("a", 1)
    harness.run()
    assert b"broker.gap" in harness.read(subscriber)
    assert [entry.id for entry in log.few_after(cursor, 3)] == [cursor + 5, cursor + 6]
