"""A feed: a merge of some topics' logs in one form, cut into pieces for its subscribers.

Rules: reads logs, writes nothing, knows no subscriber. Subscribers that ask for the same topics in the same form share
a feed; those with the same cursor share the bytes.

On a connection, no event of a topic follows its end. So a piece stops at an end, and its reader goes on with a
feed of the other topics. Many topics may end at once, for many readers: a *batch* joins the pieces across the ends, is
made once for all readers at the same cursor, and leaves in one write.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple, Protocol

from broker import sse
from broker.events import EventId, format_id
from broker.fanout.chunks import as_chunk
from broker.log.entry import Entry
from broker.log.log import Log

PIECE_BYTES = 64 << 10
FEW = 64  # events; so many are joined at most without the general merge
FRESH_ENVELOPES = 128  # made for one reader's batch, about 0.5 ms


class Completeness(Protocol):
    """See `stores.base.WatchedLogs`."""

    @property
    def complete_to(self) -> EventId: ...


class FeedKey(NamedTuple):
    """What identifies a feed.

    Attributes:
        topics: in the order of the request.
        enveloped: whether events are in the envelope form.
        floors: for each topic, the id after which it is read even if the cursor is lower; empty if all topics start at the
            cursor. So one cursor serves topics that start at different points (`last`, a gap in one of several).
        chunked: whether its pieces are chunks of an HTTP/1.1 body.
        silent: whether it leaves out the broker's own events. A gap ends it then, because it can't be reported.
    """

    topics: tuple[str, ...]
    enveloped: bool
    floors: tuple[EventId, ...] = ()
    chunked: bool = False
    silent: bool = False


class Piece(NamedTuple):
    """At most `PIECE_BYTES` of events, or one event.

    Attributes:
        chunk: whole events, as they go over the wire: one chunk if the feed is chunked.
        end: the cursor after it.
        events: their number.
        ended: the topic that ends with the last event, if any; all of the feed's if it is cut.
        gaps: the reasons of the gaps in it.
        is_cut: whether a gap cuts the stream here.
    """

    chunk: bytes
    end: EventId
    events: int
    ended: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    is_cut: bool = False


class Feed:
    """Merges `logs`, the logs of `key.topics`.

    Attributes:
        only_log: the log, if it is the only one, and is read from the cursor on.
    """

    __slots__ = ("_completeness", "key", "logs", "only_log")

    def __init__(self, key: FeedKey, logs: Sequence[Log], completeness: Completeness) -> None:
        self.key = key
        self.logs = tuple(logs)
        self.only_log = self.logs[0] if len(self.logs) == 1 and not key.floors else None
        self._completeness = completeness

    def end(self) -> EventId:
        """The cursor of a subscriber that has everything that may be written now.

        One log is contiguous by itself. The merge of several is complete only as far as all of them surely are.
        """
        return self.logs[0].last if len(self.logs) == 1 else self._completeness.complete_to

    def has_moved_past(self, cursor: EventId) -> bool:
        """Whether a log no longer has the entry after `cursor`: the next event would leave a hole."""
        return any(log.has_moved_past(max(cursor, floor)) for log, floor in self._logs_and_floors())

    def lacks(self, cursor: EventId, up_to: EventId) -> bool:
        """Whether `piece_after` would return a piece. Cheap."""
        first = next(self.entries(cursor), None)
        return first is not None and first[2].id <= up_to

    def bytes_after(self, cursor: EventId) -> int:
        """About how many bytes a subscriber at `cursor` lacks. Cheap."""
        return sum(log.bytes_after(max(cursor, floor)) for log, floor in self._logs_and_floors())

    def batch_after(self, cursor: EventId) -> Batch | None:
        """The next batch at `cursor`, or None if nothing is lacking."""
        pieces: list[Piece] = []
        size = 0
        rest = self
        while size < PIECE_BYTES:
            piece = rest.piece_after(cursor, rest.end(), FRESH_ENVELOPES) if rest.logs else None
            if piece is None or (pieces and size + len(piece.chunk) > PIECE_BYTES):
                break
            pieces.append(piece)
            size += len(piece.chunk)
            cursor = piece.end
            if not piece.ended:
                break
            rest = rest._without(piece.ended)
        if not pieces:
            return None
        chunk = pieces[0].chunk if len(pieces) == 1 else b"".join(piece.chunk for piece in pieces)
        ended = tuple(topic for piece in pieces for topic in piece.ended)
        gaps = tuple(reason for piece in pieces for reason in piece.gaps)
        return Batch(
            chunk, cursor, sum(piece.events for piece in pieces), ended, rest, gaps, pieces[-1].is_cut
        )

    def _without(self, topics: Sequence[str]) -> Feed:
        key = self.key
        keep = [index for index, name in enumerate(key.topics) if name not in topics]
        floors = tuple(key.floors[index] for index in keep) if key.floors else ()
        rest = key._replace(topics=tuple(key.topics[index] for index in keep), floors=floors)
        return Feed(rest, [self.logs[index] for index in keep], self._completeness)

    def piece_after(self, cursor: EventId, up_to: EventId, most_fresh: int = sys.maxsize) -> Piece | None:
        """The next piece at `cursor`, with nothing newer than `up_to`; None if that is empty.

        At most `most_fresh` envelopes are made for it.
        """
        log = self.only_log
        if log is not None:
            entry = log.newest_after(cursor)
            if entry is not None and entry.id <= up_to:
                return Piece(self.chunk_of(entry), entry.id, 1)
            piece = self.few_after(log, cursor, up_to)
            if piece is not None:
                return piece
        frames: list[bytes] = []
        size = fresh = 0
        before = end = cursor
        ended: tuple[str, ...] = ()
        is_silent, is_cut = self.key.silent, False
        gaps: list[str] = []
        for topic, log, entry in self.entries(cursor):
            if entry.id > up_to:
                break
            is_next = entry.id != end  # else another topic's entry for what the store lost at the same id
            if is_next:
                before = end
            frame = entry.frame
            if self.key.enveloped:
                fresh += entry.enveloped is None
                if fresh > most_fresh and frames and is_next:
                    break
                frame = log.enveloped(topic, entry)
            if entry.gap is not None:
                if is_silent:
                    gaps.append(entry.gap)
                    ended, is_cut = self.key.topics, True
                    break
                frame = sse.gap(topic, format_id(before), entry.gap)
            size += len(frame)
            if frames and size > PIECE_BYTES and is_next:
                break
            end = entry.id
            if entry.end:
                ended = (topic,)
                if not is_silent:
                    frames.append(frame)
                break
            frames.append(frame)
            if entry.gap is not None:
                gaps.append(entry.gap)
        if not frames and not ended:
            return None
        chunk = frames[0] if len(frames) == 1 else b"".join(frames)
        if self.key.chunked and chunk:
            chunk = as_chunk(chunk)
        events = len(frames) if is_silent else len(frames) - len(gaps)
        return Piece(chunk, end, events, ended, tuple(gaps), is_cut)

    def chunk_of(self, entry: Entry) -> bytes:
        """An event of `only_log` as it goes over the wire."""
        key = self.key
        frame = self.logs[0].enveloped(key.topics[0], entry) if key.enveloped else entry.frame
        return as_chunk(frame) if key.chunked else frame

    def few_after(self, log: Log, cursor: EventId, up_to: EventId) -> Piece | None:
        """`piece_after` if all that lies after `cursor` in `log`, the only one, is a few events in the plain form; else None.

        It costs a tenth of the general way.
        """
        entries = () if self.key.enveloped else log.few_after(cursor, FEW)
        if not entries or entries[-1].id > up_to:
            return None
        frames = [entry.frame for entry in entries if not entry.end]
        if len(frames) < len(entries) or not all(frames):  # an end, or a gap
            return None
        if sum(map(len, frames)) > PIECE_BYTES and len(frames) > 1:
            return None
        chunk = b"".join(frames)
        return Piece(as_chunk(chunk) if self.key.chunked else chunk, entries[-1].id, len(frames))

    def _logs_and_floors(self) -> Iterator[tuple[Log, EventId]]:
        return zip(self.logs, self.key.floors or (0,) * len(self.logs), strict=True)

    def entries(self, cursor: EventId) -> Iterator[tuple[str, Log, Entry]]:
        """The entries after `cursor`, in the order of ids."""
        if len(self.logs) == 1:
            (log,), (topic,), floors = self.logs, self.key.topics, self.key.floors
            entries = log.after(max(cursor, *floors) if floors else cursor)
            return zip(repeat(topic), repeat(log), entries, strict=False)
        topics, floors = self.key.topics, self.key.floors
        readers = [  # few of the logs have any
            zip(
                repeat(topics[index]),
                repeat(log),
                log.after(max(cursor, floors[index]) if floors else cursor),
                strict=False,
            )
            for index, log in enumerate(self.logs)
            if log.last > cursor
        ]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers, key=lambda read: read[2].id)


class Batch(NamedTuple):
    """Pieces up to the first one that doesn't end a topic, to be written at once.

    Attributes:
        chunk, end, events, gaps: as in `Piece`.
        ended: the topics that end in it; all of the feed's if a gap cuts it.
        rest: the feed to read from then on; the same feed if nothing ends.
    """

    chunk: bytes
    end: EventId
    events: int
    ended: tuple[str, ...]
    rest: Feed
    gaps: tuple[str, ...]
    is_cut: bool = False
