"""Pages of events that topics still have: after a cursor, or before an id (contract §4).

Rules: the same reading as a stream's, by `position` and a feed, but in pages. A page holds references to entries, not copies, and
its bytes are bounded. Reading is a `def`, in one step with `watch` or with the delivery that wakes a long poll.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

from broker.events import EventId, format_id
from broker.fanout.feed import Feed, FeedKey
from broker.log.entry import Entry
from broker.log.log import Log
from broker.log.start import After, Malformed, Start, cursor_text, position
from broker.stores.base import WatchedLogs


class Found(NamedTuple):
    """An event in a page."""

    topic: str
    log: Log
    entry: Entry


class Gap(NamedTuple):
    """Events of `topic` after the cursor `after` are missing, as in `broker.gap`."""

    topic: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, oldest first.

    Attributes:
        cursor: a stream that starts here continues the page.
        more: whether there are further events in the direction of the reading.
        gaps: the gaps before its first event.
        closed: whether all topics are closed.
        ends: of the topics that are closed, and of those that were deleted while a poll waited, by topic.
        is_backward: whether it was read from the newest event to the oldest.
    """

    events: Sequence[Found]
    cursor: EventId
    more: bool
    gaps: Sequence[Gap]
    closed: bool
    ends: Mapping[str, Entry]
    is_backward: bool = False

    def cut(self, count: int) -> Page:
        """The page with the `count` events that are nearest to where the reading began; fewer than it has, and at least 1."""
        if self.is_backward:
            return replace(self, events=self.events[-count:], more=True, gaps=())
        events = self.events[:count]
        return replace(self, events=events, more=True, cursor=events[-1].entry.id)


class Reading:
    """The events of `topics` from `start` on. Make it without an `await` since `watch` returned `logs` for the same start.

    Attributes:
        resumes: whether the client has sent a cursor.
    """

    __slots__ = ("_cursor", "_deleted", "_feed", "_gaps", "_logs", "_store", "resumes", "topics")

    def __init__(self, topics: Sequence[str], logs: Sequence[Log], start: Start, store: WatchedLogs) -> None:
        where = position(start, topics, logs, store)
        read = [log for topic, log in zip(topics, logs, strict=True) if topic in where.topics]
        self.topics = topics
        self.resumes = isinstance(start, After | Malformed)
        self._logs = logs
        self._store = store
        self._cursor = where.cursor
        self._feed = Feed(FeedKey(where.topics, enveloped=True, floors=where.floors), read, store)
        after = cursor_text(start)
        self._deleted: dict[str, Entry] = {}  # the log may soon lack these ends
        self._gaps = [
            Gap(topic, after, reason) for topic, reason in zip(where.gap_topics, where.gaps, strict=True)
        ]

    def open_topics(self) -> tuple[tuple[str, ...], Sequence[Log]]:
        """The topics that may still get events, and their logs."""
        both = [(t, log) for t, log in zip(self.topics, self._logs, strict=True) if log.end is None]
        return tuple(topic for topic, _ in both), [log for _, log in both]

    def end(self) -> EventId:
        """The cursor of a reader that has everything that is known to be complete: the store's last id."""
        return max(self._cursor, self._store.complete_to)

    def nothing(self) -> Page:
        """A page without events, at the cursor where the reading began."""
        return self._page((), self._cursor, more=False, gaps=())

    def after(self, limit: int, max_bytes: int) -> Page:
        """The first events, at most `limit`, with frames of `max_bytes` in all; or one."""
        events: list[Found] = []
        gaps = list(self._gaps)
        size, more, up_to = 0, False, self._feed.end()
        for topic, log, entry in self._feed.entries(self._cursor):
            if entry.id > up_to:
                break
            if entry.end:
                self._deleted[topic] = entry  # or closed, which the log itself tells
                continue
            size += len(entry.frame)
            if events and (entry.gap is not None or len(events) == limit or size > max_bytes):
                more = True
                break
            if entry.gap is None:
                events.append(Found(topic, log, entry))
            else:
                gaps.append(Gap(topic, format_id(self._cursor), entry.gap))
        cursor = events[-1].entry.id if events else self.end()
        return self._page(events, cursor, more=more, gaps=gaps)

    def before(self, stop: EventId, limit: int, max_bytes: int) -> Page:
        """The last events before the id `stop`; else as `after`."""
        events: list[Found] = []
        gaps = list(self._gaps)
        lost: list[tuple[str, str]] = []  # before `events`
        size, more, seen = 0, False, self._cursor
        for topic, log, entry in self._newest_first(min(stop, self._feed.end() + 1)):
            if entry.end:
                continue
            if entry.gap is not None:
                if events:  # else the page read before this one reports it
                    lost.append((topic, entry.gap))
                continue
            size += len(entry.frame)
            if lost or len(events) == limit or (events and size > max_bytes):
                more, seen = True, entry.id
                break
            events.append(Found(topic, log, entry))
        gaps += [Gap(topic, format_id(seen), reason) for topic, reason in lost]
        events.reverse()
        cursor = events[-1].entry.id if events else self.end()
        return self._page(events, cursor, more=more, gaps=gaps, is_backward=True)

    def _page(
        self,
        events: Sequence[Found],
        cursor: EventId,
        *,
        more: bool,
        gaps: Sequence[Gap],
        is_backward: bool = False,
    ) -> Page:
        closed = {t: log.end for t, log in zip(self.topics, self._logs, strict=True) if log.end is not None}
        is_closed = len(closed) == len(self.topics)
        return Page(events, cursor, more, gaps, is_closed, {**self._deleted, **closed}, is_backward)

    def _newest_first(self, stop: EventId) -> Iterator[tuple[str, Log, Entry]]:
        feed = self._feed
        floors = feed.key.floors or (self._cursor,) * len(feed.logs)
        readers = [
            zip(repeat(topic), repeat(log), log.between(floor, stop), strict=False)
            for topic, log, floor in zip(feed.key.topics, feed.logs, floors, strict=True)
        ]
        return heapq.merge(*readers, key=lambda read: read[2].id, reverse=True)
