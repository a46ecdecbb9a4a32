"""Replies of the read script and pub/sub payloads, decoded; foreign payloads are refused."""

from __future__ import annotations

import pytest

from broker.events import SEQUENCE_BITS
from broker.log.timeline import Correction
from broker.stores.redis.formats import (
    Probe,
    StoreHistory,
    TopicEnd,
    TopicPage,
    TopicUpdate,
    decode_history,
    decode_page,
    decode_payload,
)
from broker.topics import Retention


def event_id(ms: int, n: int = 0) -> int:
    return ms << SEQUENCE_BITS | n


def test_a_history_has_losses_and_uncertain_spans() -> None:
    """A rewind is "L S N": the store went back to L, S was seen, ids resumed at N."""
    history = decode_history(9, [b"1-0", b"2-0", b"5-0 7-0 20-0;30-0 30-0 40-0", b"1000 50;3000 70"])
    assert history == StoreHistory(
        9,
        event_id(1),
        event_id(2),
        (event_id(1), event_id(20)),
        ((event_id(30), event_id(40)),),
        (Correction(1000, 50), Correction(3000, 70)),
    )


def test_a_cursor_strictly_inside_an_uncertain_span_is_lost() -> None:
    history = decode_history(9, [b"1-0", b"1-0", b"30-0 30-0 40-0", b""])
    cursors = [event_id(30), event_id(30, 1), event_id(39), event_id(40)]
    assert [history.is_lost(cursor) for cursor in cursors] == [False, True, True, False]


def test_a_page_of_an_unknown_topic() -> None:
    page = decode_page([b"", b"", b"", b"", b"", 0], b"5-1")  # type: ignore[list-item]
    assert page == TopicPage(None, 0, 0, None, None, False, [], event_id(5, 1))


def test_a_full_page_of_a_closed_topic() -> None:
    page = decode_page(
        [b"9-0", b"3-0", b"2-1", b"9-0 8-0 failed", b"60000 10 1000", 1, b"5-1", b"4-0", b"data: x\n"],  # type: ignore[list-item]
        b"",
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


def test_entries() -> None:
    """The third number is how far all topics are announced; sizes follow in pairs of offset and bytes."""
    update = decode_payload(b"E 7 4-1 5 1 2 2 0 8 3 8\ndata: 1\ndata: 2\n")
    assert isinstance(update, TopicUpdate)
    assert (update.epoch, update.prev, update.announced_to) == (7, event_id(4, 1), event_id(5, 2))
    frames = [b"data: 1\nid: 5-1\n\n", b"data: 2\nid: 5-4\n\n"]
    assert list(update.entries) == [(event_id(5, 1), frames[0]), (event_id(5, 4), frames[1])]
    assert (update.last, update.size) == (event_id(5, 4), sum(map(len, frames)))


def test_entries_of_a_topic_with_its_own_retention() -> None:
    update = decode_payload(b"F 7 60000 10 1000 4-1 5 1 1 1 0 8\ndata: 1\n")
    assert isinstance(update, TopicUpdate)
    assert update.retention == Retention(events=10, bytes=1000, seconds=60)
    assert update.last == event_id(5, 1)


@pytest.mark.parametrize(
    ("payload", "reason"), [(b"C 7 4-1 5-0 failed", "failed"), (b"D 7 4-1 5-0", "deleted")]
)
def test_ends(payload: bytes, reason: str) -> None:
    update = decode_payload(payload)
    assert update == TopicUpdate(7, event_id(4, 1), event_id(5, 0), (), 0, event_id(5, 0), reason)


def test_a_probe() -> None:
    assert decode_payload(b"P 7 5-0") == Probe(7, event_id(5, 0))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"E",
        b"E 1\n",
        b"E 1 0-0 5 1 1 1 0\n",
        b"E 1 0-0 5 1 1 0\n",
        b"E 1 0-0 5 1 2 2 0 5\nabcde",
        b"E 1 0-0 5 1 1 1 0 99\ndata: x\n",
        b"E x 0-0 5 1 1 1 0 8\ndata: x\n",
        b"D 1 0-0\n",
        b"D 1 0-0 x-y\n",
        b"C 1 0-0 5-0\n",
        b"C 1 0-0 x closed\n",
        b"F 1 2 3 0-0 5 1 1 1 0 8\ndata: x\n",
        b"F 1 2 3\n",
        b"P 1\n",
        b"P 1 5-0 6-0\n",
        b"Q 1 5-0\n",
        "E 1 0-0 ५ 1 1 1 0 8\ndata: x\n".encode(),
    ],
)
def test_foreign_payloads_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_payload(data)
