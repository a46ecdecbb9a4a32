"""What a group of subscribers is written: the merge of some topics' logs, in one form.

Rules: reads logs, writes nothing. Subscribers that ask for the same topics in the same form share a feed, and those with
the same cursor share the bytes.

What a reader is written where topics of its end, and what is left for it to read.

Rules: reads logs, writes nothing. Nothing follows the end of a topic on the same connection, so a piece stops there, and
its reader goes on with the topics that are left. Many topics may end at once, for many readers: what they are written is
made once for all who are at the same cursor, and leaves as one piece.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from broker import sse
from broker.events import EventId, format_id
from broker.fanout.subscriber import Subscriber
from broker.log.log import Entry, Log

PIECE_BYTES = 64 << 10


class Piece(NamedTuple):
    """What is written at once: at most `PIECE_BYTES`, or one event.

    Attributes:
        chunk: whole events, as they go over the wire.
        end: the cursor of who has been written it.
        events: how many there are in it.
        ended: the topic whose end is its last event.
        gaps: the reasons of the gaps that it tells of.
    """

    chunk: bytes
    end: EventId
    events: int
    ended: str | None
    gaps: tuple[str, ...] = ()


class FeedKey(NamedTuple):
    """What tells feeds apart.

    Attributes:
        topics: in the order asked for.
        enveloped: whether in the envelope form.
        floors: for each topic, from where a subscriber reads it whose cursor is lower; empty where all topics start at
            the cursor. Lets one cursor serve topics that begin at different points (`last`, a gap in one of several).
    """

    topics: tuple[str, ...]
    enveloped: bool
    floors: tuple[EventId, ...] = ()


class Feed:
    """A reader of logs, and the subscribers it has.

    Attributes:
        subscribers: in no order; a subscriber's `place` is its index.
        written: the cursor that every subscriber who isn't lagging has reached.
        unvisited: how many subscribers, from the start of the list, the present pass has yet to visit; None between passes.
        target: how far the present pass goes.
        bytes_due: about how many bytes the present pass has for each subscriber.
        is_due: whether something was delivered since the present pass began, or the last one.
        queued: whether it waits for its turn.
    """

    __slots__ = (
        "bytes_due",
        "is_due",
        "key",
        "logs",
        "queued",
        "subscribers",
        "target",
        "unvisited",
        "written",
    )

    def __init__(self, key: FeedKey, logs: Sequence[Log], written: EventId) -> None:
        self.key = key
        self.logs = tuple(logs)
        self.subscribers: list[Subscriber] = []
        self.written = written
        self.target = written
        self.unvisited: int | None = None
        self.bytes_due = 0
        self.is_due = False
        self.queued = False

    def end(self, complete_to: EventId) -> EventId:
        """The cursor of who has everything that may be written now.

        One log is contiguous by itself. The merge of several is complete only as far as all of them surely are.
        """
        return self.logs[0].last if len(self.logs) == 1 else complete_to

    def is_past(self, cursor: EventId) -> bool:
        """Whether a log has moved past `cursor`: the next event would leave a hole."""
        return any(log.is_past(max(cursor, floor)) for log, floor in self._logs())

    def _logs(self) -> Iterator[tuple[Log, EventId]]:
        return zip(self.logs, self.key.floors or (0,) * len(self.logs), strict=True)

    def lacks(self, cursor: EventId, up_to: EventId) -> bool:
        """Whether `piece_after` has something for a subscriber at `cursor`; costs next to nothing."""
        first = next(self._entries(cursor), None)
        return first is not None and first[2].id <= up_to

    def piece_after(self, cursor: EventId, up_to: EventId) -> Piece | None:
        """The next piece for a subscriber at `cursor`, or None; nothing in it is newer than `up_to`."""
        frames: list[bytes] = []
        size = 0
        before = end = cursor
        ended = None
        gaps: list[str] = []
        gap_entries = 0  # entries that are nothing but a gap
        for topic, log, entry in self._entries(cursor):
            if entry.id > up_to:
                break
            is_next = (
                entry.id != end
            )  # what a store has lost has one id in all its logs: each topic tells of it
            if is_next:
                before = end
            frame = log.enveloped(topic, entry) if self.key.enveloped else entry.frame
            told = entry.gap is not None and self._floored(topic, before) < entry.prev
            if told:
                frame = sse.gap(topic, format_id(before), entry.gap or "") + frame
            size += len(frame)
            if frames and size > PIECE_BYTES and is_next:
                break
            frames.append(frame)
            if told:
                gaps.append(entry.gap or "")
            gap_entries += not entry.frame
            end = entry.id
            if entry.end:
                ended = topic
                break
        if not frames:
            return None
        chunk = frames[0] if len(frames) == 1 else b"".join(frames)
        return Piece(chunk, end, len(frames) - gap_entries, ended, tuple(gaps))

    def _floored(self, topic: str, cursor: EventId) -> EventId:
        floors = self.key.floors
        return max(cursor, floors[self.key.topics.index(topic)]) if floors else cursor

    def _entries(self, cursor: EventId) -> Iterator[tuple[str, Log, Entry]]:
        """What lies after `cursor`, in the order of ids."""
        if len(self.logs) == 1:
            (log,) = self.logs
            (topic,) = self.key.topics
            return _reader(topic, log, max(cursor, *self.key.floors, 0))
        readers = [
            _reader(topic, log, max(cursor, floor))
            for topic, (log, floor) in zip(self.key.topics, self._logs(), strict=True)
            if log.last > cursor
        ]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers, key=lambda read: read[2].id)


def _reader(topic: str, log: Log, cursor: EventId) -> Iterator[tuple[str, Log, Entry]]:
    return ((topic, log, entry) for entry in log.after(cursor))


class Batch(NamedTuple):
    """A piece that goes on behind the ends of topics: what is written at once.

    Attributes:
        chunk: whole events, as they go over the wire.
        end: the cursor of who has been written it.
        events: how many there are in it.
        ended: the topics whose ends are in it.
        rest: what is to be read from then on; the feed itself where nothing has ended.
        gaps: the reasons of the gaps that it tells of.
    """

    chunk: bytes
    end: EventId
    events: int
    ended: tuple[str, ...]
    rest: Feed
    gaps: tuple[str, ...]


def stretch_after(feed: Feed, cursor: EventId, complete_to: EventId) -> Batch | None:
    """The next stretch for a subscriber of `feed` at `cursor`, or None where it lacks nothing."""
    pieces: list[Piece] = []
    size = 0
    rest = feed
    while size < PIECE_BYTES:
        piece = rest.piece_after(cursor, rest.end(complete_to)) if rest.logs else None
        if piece is None or (pieces and size + len(piece.chunk) > PIECE_BYTES):
            break
        pieces.append(piece)
        size += len(piece.chunk)
        cursor = piece.end
        if piece.ended is None:
            break
        rest = _without(rest, piece.ended)
    if not pieces:
        return None
    chunk = pieces[0].chunk if len(pieces) == 1 else b"".join(piece.chunk for piece in pieces)
    ended = tuple(piece.ended for piece in pieces if piece.ended is not None)
    gaps = tuple(reason for piece in pieces for reason in piece.gaps)
    return Batch(chunk, cursor, sum(piece.events for piece in pieces), ended, rest, gaps)


def _without(feed: Feed, topic: str) -> Feed:
    """A feed of what `feed` reads, less `topic`; with no subscribers."""
    key = feed.key
    keep = [index for index, name in enumerate(key.topics) if name != topic]
    floors = tuple(key.floors[index] for index in keep) if key.floors else ()
    left = FeedKey(tuple(key.topics[index] for index in keep), key.enveloped, floors)
    return Feed(left, [feed.logs[index] for index in keep], feed.written)
