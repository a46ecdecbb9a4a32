"""Replies of the read script: the store's history, and pages of a topic's log."""

from __future__ import annotations

from broker.events import SEQUENCE_BITS
from broker.stores.redis.replies import StoreHistory, TopicEnd, TopicPage, decode_history, decode_page
from broker.topics import Retention


def event_id(ms: int, n: int = 0) -> int:
    return ms << SEQUENCE_BITS | n


def test_a_history_has_losses_and_uncertain_spans() -> None:
    """A rewind is "L S N": the store went back to L, S was seen, ids resumed at N."""
    history = decode_history(9, [b"1-0", b"2-0", b"5-0 7-0 20-0;30-0 30-0 40-0"])
    assert history == StoreHistory(
        9, event_id(1), event_id(2), (event_id(1), event_id(20)), ((event_id(30), event_id(40)),)
    )


def test_a_cursor_strictly_inside_an_uncertain_span_is_lost() -> None:
    history = decode_history(9, [b"1-0", b"1-0", b"30-0 30-0 40-0"])
    cursors = [event_id(30), event_id(30, 1), event_id(39), event_id(40)]
    assert [history.is_lost(cursor) for cursor in cursors] == [False, True, True, False]


def test_a_page_of_an_unknown_topic() -> None:
    assert decode_page([b"", b"", b"", b"", b"", 0]) == TopicPage(None, 0, 0, None, None, False, [])  # type: ignore[list-item]


def test_a_full_page_of_a_closed_topic() -> None:
    page = decode_page(
        [b"9-0", b"3-0", b"2-1", b"9-0 8-0 failed", b"60000 10 1000", 1, b"5-1", b"4-0", b"data: x\n"]  # type: ignore[list-item]
    )
    assert page == TopicPage(
        last=event_id(9),
        cleared_at=event_id(3),
        cleared_after=event_id(2, 1),
        end=TopicEnd(event_id(9), event_id(8), "failed"),
        retention=Retention(events=10, bytes=1000, seconds=60),
        more=True,
        entries=[(event_id(5, 1), event_id(4), b"data: x\nid: 5-1\n\n")],
    )
