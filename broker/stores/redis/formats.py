"""The formats of scripts' replies and pub/sub payloads, decoded.

Rules: pure; the heads of the scripts in `lua/` describe the formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from broker import sse
from broker.events import SEQUENCE_BITS, EventId
from broker.log.timeline import Correction
from broker.topics import Retention


def decode_id(text: bytes) -> EventId:
    """An id that a script wrote."""
    ms, _, n = text.partition(b"-")
    return int(ms) << SEQUENCE_BITS | int(n)


def decode_retention(age_ms: bytes, events: bytes, size: bytes) -> Retention:
    return Retention(int(events), int(size), int(age_ms) / 1000)


# Replies of the read script


@dataclass(frozen=True, slots=True)
class StoreHistory:
    """What the store knows of events that it has lost.

    Attributes:
        epoch: rises when one of the others changes.
        born: nothing before this id is known.
        floor: topics without a record may have had events up to this id.
        losses: increasing ids; events before each of them may be lost.
        uncertain: a pair of ids (both exclusive) for each restart without a known loss; a cursor between them is that of a
            lost event.
        corrections: see `log.timeline`.
    """

    epoch: int
    born: EventId
    floor: EventId
    losses: tuple[EventId, ...]
    uncertain: tuple[tuple[EventId, EventId], ...]
    corrections: tuple[Correction, ...] = ()

    def is_lost(self, cursor: EventId) -> bool:
        return any(low < cursor < high for low, high in self.uncertain)


UNKNOWN_HISTORY = StoreHistory(0, 0, 0, (), ())


def decode_history(epoch: int, reply: Sequence[bytes]) -> StoreHistory:
    """Decodes a reply's born, floor, rewinds and ahead."""
    born, floor, rewinds, ahead = reply[:4]
    losses, uncertain = [decode_id(born)], []
    for rewind in filter(None, rewinds.split(b";")):
        lost, seen, resumed = map(decode_id, rewind.split(b" "))
        if seen > lost:
            losses.append(resumed)
        else:
            uncertain.append((lost, resumed))
    corrections = (Correction(*map(int, pair.split(b" "))) for pair in ahead.split(b";") if pair)
    return StoreHistory(
        epoch,
        decode_id(born),
        decode_id(floor),
        tuple(sorted(losses)),
        tuple(uncertain),
        tuple(corrections),
    )


class ReadReply(NamedTuple):
    """A reply of the read script.

    Attributes:
        last: the store's last id.
        forgotten: for `decode_page`.
        parts: one for each topic, for `decode_page`.
    """

    last: EventId
    history: StoreHistory
    forgotten: bytes
    parts: Sequence[Sequence[bytes]]


def decode_read(reply: Sequence[Any]) -> ReadReply:
    history = decode_history(reply[1], reply[2:6])
    return ReadReply(decode_id(reply[0]), history, reply[6], reply[7:])


class TopicEnd(NamedTuple):
    """The end of a closed topic; `prev` is the topic's last id before it."""

    id: EventId
    prev: EventId
    reason: str


class TopicPage(NamedTuple):
    """A part of one topic's log.

    Attributes:
        last: the topic's last id; None if the store has no record of it.
        cleared_at, cleared_after: see `Log`; 0 without a DELETE.
        retention: what the topic's first publisher asked for, or None.
        more: whether the range has further entries: later ones, or earlier ones if the newest were asked for.
        entries: `(id, prev, frame)`, oldest first.
        forgotten_to: without a record, the topic may have had entries up to this id.
    """

    last: EventId | None
    cleared_at: EventId
    cleared_after: EventId
    end: TopicEnd | None
    retention: Retention | None
    more: bool
    entries: Sequence[tuple[EventId, EventId, bytes]]
    forgotten_to: EventId = 0


def decode_page(reply: Sequence[bytes], forgotten: bytes, *, newest_first: bool = False) -> TopicPage:
    """Decodes a topic's part of a reply; `forgotten` is the reply's. `newest_first`: the order of its entries."""
    last, cleared_at, cleared_after, end, retention, more, *flat = reply
    entries = []
    for at in range(0, len(flat), 3):
        event_id = decode_id(flat[at])
        entries.append((event_id, decode_id(flat[at + 1]), sse.frame(flat[at + 2], event_id)))
    if newest_first:
        entries.reverse()
    return TopicPage(
        decode_id(last) if last else None,
        decode_id(cleared_at) if cleared_at else 0,
        decode_id(cleared_after) if cleared_after else 0,
        _decode_end(end) if end else None,
        decode_retention(*retention.split(b" ")) if retention else None,
        bool(int(more)),
        entries,
        0 if last else decode_id(forgotten),
    )


def _decode_end(text: bytes) -> TopicEnd:
    event_id, prev, reason = text.split(b" ")
    return TopicEnd(decode_id(event_id), decode_id(prev), reason.decode())


# Payloads


class TopicUpdate(NamedTuple):
    """The change that one script call made to one topic: new entries, or its end.

    Attributes:
        epoch: of the store's history at that time.
        prev: the topic's last id before the change.
        last: the topic's last id after it.
        entries: `(id, frame)`, ids increasing; none for an end.
        size: bytes of the frames.
        announced_to: everything up to this id, in any topic, is published with this payload. A call for several topics
            publishes one payload for each, so `last` may lie after ids that are not announced yet.
        reason: of an end; `deleted` after DELETE.
        retention: what the topic's first publisher asked for, or None.
        published_ms: when the entries were published, in ms since 1970, by the clock of the instance that published them; 0 for an
            end. From an instance of an older version it is the time in the first id, which isn't always a time.
    """

    epoch: int
    prev: EventId
    last: EventId
    entries: Sequence[tuple[EventId, bytes]]
    size: int
    announced_to: EventId
    reason: str = ""
    retention: Retention | None = None
    published_ms: int = 0


class Probe(NamedTuple):
    """Everything up to `last` was published before this payload."""

    epoch: int
    last: EventId


def decode_payload(data: bytes) -> TopicUpdate | Probe:
    """Raises `ValueError` if no script of the broker published it: others may use the same server."""
    head, _, body = data.partition(b"\n")
    kind, epoch, *rest = head.split(b" ")
    if kind == b"E":
        return _decode_entries(int(epoch), rest, body)
    if kind == b"F":
        age_ms, events, size, *rest = rest
        return _decode_entries(int(epoch), rest, body, decode_retention(age_ms, events, size))
    if kind == b"D":
        prev, end = rest
        return _end(int(epoch), prev, end, "deleted")
    if kind == b"C":
        prev, end, reason = rest
        return _end(int(epoch), prev, end, reason.decode())
    if kind == b"P":
        (last,) = rest
        return Probe(int(epoch), decode_id(last))
    raise ValueError("not a payload of a broker's script")


def _end(epoch: int, prev: bytes, end: bytes, reason: str) -> TopicUpdate:
    end_id = decode_id(end)
    return TopicUpdate(epoch, decode_id(prev), end_id, (), 0, end_id, reason)


def _decode_entries(
    epoch: int, fields: Sequence[bytes], body: bytes, retention: Retention | None = None
) -> TopicUpdate:
    prev, ms, n, announced, count, *sizes = fields
    published_ms = int(ms)
    first = published_ms << SEQUENCE_BITS | int(n)
    announced_to = first + int(announced) - 1
    if len(sizes) != 2 * int(count) or not sizes or len(body) != sum(map(int, sizes[1::2])):
        raise ValueError("not a payload of a broker's script")
    if count == b"1":  # most are, and the loop below costs a third more
        event_id = first + int(sizes[0])
        frame = sse.frame(body, event_id)
        entry = event_id, frame
        return TopicUpdate(
            epoch, decode_id(prev), event_id, (entry,), len(frame), announced_to, "", retention, published_ms
        )
    entries: list[tuple[EventId, bytes]] = []
    begin = total = event_id = 0
    for offset, size in zip(sizes[::2], sizes[1::2], strict=True):
        end = begin + int(size)
        event_id = first + int(offset)
        frame = sse.frame(body[begin:end], event_id)
        entries.append((event_id, frame))
        begin, total = end, total + len(frame)
    return TopicUpdate(
        epoch, decode_id(prev), event_id, entries, total, announced_to, "", retention, published_ms
    )
