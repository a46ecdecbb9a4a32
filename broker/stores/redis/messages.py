"""What the store's scripts say, as values: what is heard on a channel, and what a read answers.

Rules: pure; the forms are those at the heads of the scripts in `lua/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker import sse
from broker.events import SEQUENCE_BITS, EventId
from broker.topics import Retention

Appended = tuple[EventId, bytes]
"""An entry's id, and its frame."""


class Arrival(NamedTuple):
    """What was appended to a topic by one call, or the end of it.

    Attributes:
        epoch: of the facts that the store knew.
        prev: the topic's id before.
        entries: with ids that increase; for an end, nothing.
        end: the id of the end, or 0.
        size: bytes of the frames.
        said: up to here everything, of whatever topic, was said with this or before. A call for several topics says
            each on its own, so `last` may lie behind ids of which nothing was said yet.
        reason: of an end; `deleted` is a DELETE.
        retention: what the topic keeps, where its first publisher has asked for that.
    """

    epoch: int
    prev: EventId
    entries: Sequence[Appended]
    end: EventId
    size: int
    said: EventId
    reason: str = ""
    retention: Retention | None = None

    @property
    def last(self) -> EventId:
        return self.end or self.entries[-1][0]


class Probe(NamedTuple):
    """That everything up to `last` was said before this."""

    epoch: int
    last: EventId


def heard(data: bytes) -> Arrival | Probe:
    """What a message says. Raises `ValueError` where no script of ours said it: others may use the server too."""
    head, _, body = data.partition(b"\n")
    kind, epoch, *rest = head.split(b" ")
    if kind == b"E":
        return _arrival(int(epoch), rest, body)
    if kind == b"F":
        age, events, size, *rest = rest
        return _arrival(int(epoch), rest, body)._replace(retention=_retention(age, events, size))
    if kind == b"D":
        prev, end = rest
        return Arrival(int(epoch), to_id(prev), (), to_id(end), 0, to_id(end), "deleted")
    if kind == b"C":
        prev, end, reason = rest
        return Arrival(int(epoch), to_id(prev), (), to_id(end), 0, to_id(end), reason.decode())
    if kind == b"P":
        (last,) = rest
        return Probe(int(epoch), to_id(last))
    raise ValueError("no message of a store")


def _arrival(epoch: int, fields: Sequence[bytes], body: bytes) -> Arrival:
    prev, ms, n, said, count, *sizes = fields
    first = int(ms) << SEQUENCE_BITS | int(n)
    said_to = first + int(said) - 1
    if len(sizes) != 2 * int(count) or not sizes or len(body) != sum(map(int, sizes[1::2])):
        raise ValueError("no message of a store")
    if count == b"1":
        frame = sse.frame(body, first + int(sizes[0]))
        return Arrival(epoch, to_id(prev), ((first + int(sizes[0]), frame),), 0, len(frame), said_to)
    entries: list[Appended] = []
    begin = total = 0
    for offset, size in zip(sizes[::2], sizes[1::2], strict=True):
        end = begin + int(size)
        event_id = first + int(offset)
        frame = sse.frame(body[begin:end], event_id)
        entries.append((event_id, frame))
        begin, total = end, total + len(frame)
    return Arrival(epoch, to_id(prev), entries, 0, total, said_to)


def _retention(age_ms: bytes, events: bytes, size: bytes) -> Retention:
    return Retention(int(events), int(size), int(age_ms) / 1000)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store knows of its own past.

    Attributes:
        epoch: rises whenever the rest changes.
        born: nothing before this id is known.
        floor: up to this id topics without a record may have had events.
        losses: ids behind which something is lost that somebody has seen, or that nobody can tell of: increasing.
        unsure: for each time that the store went back and nobody has told of a loss, the ids between which a cursor would
            be from the time that was lost (both exclusive).
    """

    epoch: int
    born: EventId
    floor: EventId
    losses: tuple[EventId, ...]
    unsure: tuple[tuple[EventId, EventId], ...]

    def is_lost(self, cursor: EventId) -> bool:
        return any(low < cursor < high for low, high in self.unsure)


UNKNOWN = Facts(0, 0, 0, (), ())


def facts(epoch: int, reply: Sequence[bytes]) -> Facts:
    """What a read answers in its first three values: born, floor, rewinds."""
    born, floor, rewinds = reply[:3]
    losses, unsure = [to_id(born)], []
    for rewind in filter(None, rewinds.split(b";")):
        lost, seen, following = map(to_id, rewind.split(b" "))
        if seen > lost:
            losses.append(following)
        else:
            unsure.append((lost, following))
    return Facts(epoch, to_id(born), to_id(floor), tuple(sorted(losses)), tuple(unsure))


class End(NamedTuple):
    """That a topic has ended: the id of the end, and the topic's id before it."""

    id: EventId
    prev: EventId
    reason: str


class Held(NamedTuple):
    """What a read answers of one topic.

    Attributes:
        last: its last id, or None where there is no record of it.
        cleared_at, cleared_after: see `Log`; 0 where it was never cleared.
        end: where it has ended.
        retention: what it keeps, where its first publisher has asked for that.
        more: whether entries are left behind those given.
        entries: `(id, prev, frame)`, oldest first.
    """

    last: EventId | None
    cleared_at: EventId
    cleared_after: EventId
    end: End | None
    retention: Retention | None
    more: bool
    entries: Sequence[tuple[EventId, EventId, bytes]]


def held(reply: Sequence[bytes]) -> Held:
    """One topic's part of a read's answer."""
    last, cleared_at, cleared_after, end, retention, more, *flat = reply
    entries = []
    for at in range(0, len(flat), 3):
        event_id = to_id(flat[at])
        entries.append((event_id, to_id(flat[at + 1]), sse.frame(flat[at + 2], event_id)))
    return Held(
        to_id(last) if last else None,
        to_id(cleared_at) if cleared_at else 0,
        to_id(cleared_after) if cleared_after else 0,
        _end(end) if end else None,
        _retention(*retention.split(b" ")) if retention else None,
        bool(int(more)),
        entries,
    )


def _end(text: bytes) -> End:
    event_id, prev, reason = text.split(b" ")
    return End(to_id(event_id), to_id(prev), reason.decode())


def to_id(text: bytes) -> EventId:
    """An id that a script wrote."""
    ms, _, n = text.partition(b"-")
    return int(ms) << SEQUENCE_BITS | int(n)
