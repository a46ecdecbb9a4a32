"""The answers of the read script, as values.

Rules: pure; the formats are described at the heads of the scripts in `lua/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker import sse
from broker.events import SEQUENCE_BITS, EventId
from broker.topics import Retention


def decode_id(text: bytes) -> EventId:
    """An id that a script wrote."""
    ms, _, n = text.partition(b"-")
    return int(ms) << SEQUENCE_BITS | int(n)


def decode_retention(age_ms: bytes, events: bytes, size: bytes) -> Retention:
    return Retention(int(events), int(size), int(age_ms) / 1000)


@dataclass(frozen=True, slots=True)
class StoreHistory:
    """What the store knows of events that it has lost.

    Attributes:
        epoch: rises when one of the others changes.
        born: nothing before this id is known.
        floor: topics without a record may have had events up to this id.
        losses: increasing ids; events before each of them may be lost.
        uncertain: spans of ids (both exclusive) of restarts without a known loss; a cursor inside one is a lost event's.
    """

    epoch: int
    born: EventId
    floor: EventId
    losses: tuple[EventId, ...]
    uncertain: tuple[tuple[EventId, EventId], ...]

    def is_lost(self, cursor: EventId) -> bool:
        return any(low < cursor < high for low, high in self.uncertain)


UNKNOWN_HISTORY = StoreHistory(0, 0, 0, (), ())


def decode_history(epoch: int, reply: Sequence[bytes]) -> StoreHistory:
    """Decodes a reply's born, floor and rewinds."""
    born, floor, rewinds = reply[:3]
    losses, uncertain = [decode_id(born)], []
    for rewind in filter(None, rewinds.split(b";")):
        lost, seen, resumed = map(decode_id, rewind.split(b" "))
        if seen > lost:
            losses.append(resumed)
        else:
            uncertain.append((lost, resumed))
    return StoreHistory(epoch, decode_id(born), decode_id(floor), tuple(sorted(losses)), tuple(uncertain))


class TopicEnd(NamedTuple):
    """The end of a closed topic; `prev` is the topic's id before."""

    id: EventId
    prev: EventId
    reason: str


class TopicPage(NamedTuple):
    """A part of one topic's log.

    Attributes:
        last: the topic's last id; None if the store has no record of it.
        cleared_at, cleared_after: see `Log`; 0 without a DELETE.
        retention: if the topic's first publisher asked for its own.
        more: whether entries are left.
        entries: `(id, prev, frame)`, oldest first.
    """

    last: EventId | None
    cleared_at: EventId
    cleared_after: EventId
    end: TopicEnd | None
    retention: Retention | None
    more: bool
    entries: Sequence[tuple[EventId, EventId, bytes]]


def decode_page(reply: Sequence[bytes]) -> TopicPage:
    last, cleared_at, cleared_after, end, retention, more, *flat = reply
    entries = []
    for at in range(0, len(flat), 3):
        event_id = decode_id(flat[at])
        entries.append((event_id, decode_id(flat[at + 1]), sse.frame(flat[at + 2], event_id)))
    return TopicPage(
        decode_id(last) if last else None,
        decode_id(cleared_at) if cleared_at else 0,
        decode_id(cleared_after) if cleared_after else 0,
        _decode_end(end) if end else None,
        decode_retention(*retention.split(b" ")) if retention else None,
        bool(int(more)),
        entries,
    )


def _decode_end(text: bytes) -> TopicEnd:
    event_id, prev, reason = text.split(b" ")
    return TopicEnd(decode_id(event_id), decode_id(prev), reason.decode())
