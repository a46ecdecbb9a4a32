"""The subscribers of this instance, and the fan-out of what is delivered to them.

Rules: never waits (I3): every method is a `def`, and work that is long is cut into slices between which the loop does
other things. Knows logs, feeds and subscribers; no store, no HTTP.

A *pass* brings every subscriber of a feed that isn't lagging to the present end of its logs. It walks the feed's list
downwards, and whoever leaves is replaced by the last of the list: so nobody is skipped, whoever comes or goes meanwhile,
and who is met twice has nothing to be written. Subscribers that lag, or that replay, are brought up one piece a turn in
a queue of their own.

What is delivered stays in its log until the passes over it are done (`Log.hold`), however small the retention. `backlog`
says how much that is, in bytes; publishers wait while it is too much, which bounds it (I4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker import sse
from broker.events import EventId
from broker.feed import Feed, FeedKey, Piece
from broker.log import Log
from broker.subscriber import CloseReason, Lag, Subscriber

SLICE_WRITES = 200  # about 2 ms
SLICE_VISITS = 4000  # of subscribers that turn out to need nothing
PIECES_PER_TURN = 50  # to those who are behind


@dataclass(slots=True)
class _Topic:
    """A topic with subscribers here. `mark`: an id that `waiting` of its feeds have yet to be written up to."""

    log: Log
    mark: EventId
    waiting: int = 0
    subscribers: int = 0
    feeds: dict[Feed, None] = field(default_factory=dict)


class Hub:
    """See the module.

    Args:
        call_soon: schedules a callable for the loop's next turn.
        monotonic: the loop's time in seconds.
        complete_to: up to where the logs are complete; see `stores.base.Store`.
        on_released: called with topics that a subscriber no longer needs.
        on_written: called with a topic whose hold has moved on.
        on_shrunk: called when `backlog` has become less.
        on_closed: called once for a connection that is gone, with its reason and its age in seconds.
        heartbeat_seconds: silence after which a comment is written.
        slow_seconds: how long a lagging subscriber may take nothing.

    Attributes:
        backlog: bytes delivered and not yet written to those who are up to date.
        delivered: events written to subscribers so far.
    """

    def __init__(
        self,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        monotonic: Callable[[], float],
        complete_to: Callable[[], EventId],
        on_released: Callable[[Sequence[str]], None],
        on_written: Callable[[str], None],
        on_shrunk: Callable[[], None],
        on_closed: Callable[[CloseReason, float], None],
        heartbeat_seconds: float,
        slow_seconds: float,
    ) -> None:
        self.backlog = 0
        self.delivered = 0
        self._call_soon = call_soon
        self._monotonic = monotonic
        self._complete_to = complete_to
        self._on_released = on_released
        self._on_written = on_written
        self._on_shrunk = on_shrunk
        self._on_closed = on_closed
        self._heartbeat_seconds = heartbeat_seconds
        self._slow_seconds = slow_seconds
        self._topics: dict[str, _Topic] = {}
        self._feeds: dict[FeedKey, Feed] = {}
        self._seats: list[Subscriber] = []
        self._queue: deque[Feed] = deque()
        self._behind: deque[Subscriber] = deque()
        self._replayed: tuple[Feed, EventId, Piece | None] | None = None
        self._scheduled = False
        self._unwalked: int | None = None

    # Who is here

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._seats)

    @property
    def lagging(self) -> int:
        """How many of them lag or replay."""
        return sum(subscriber.lag is not None for subscriber in self._seats)

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        """All of them, at this moment."""
        return tuple(self._seats)

    def topics(self) -> Sequence[str]:
        """Those that somebody here is subscribed to."""
        return tuple(self._topics)

    def count(self, topic: str) -> int:
        """How many are subscribed to `topic` here."""
        known = self._topics.get(topic)
        return known.subscribers if known is not None else 0

    # Coming and going

    def attach(
        self, transport: asyncio.Transport, key: FeedKey, logs: Sequence[Log], cursor: EventId, opening: bytes
    ) -> Subscriber:
        """Make a subscriber at `cursor`, write `opening` to it and what it lacks, as far as that is one piece.

        `logs` are those of `key.topics` and joined on to `cursor` and `key.floors` when this is called; nothing may
        happen to them between that check and this call.
        """
        now = self._monotonic()
        subscriber = Subscriber(transport, self, cursor, now)
        subscriber.seat = len(self._seats)
        self._seats.append(subscriber)
        feed = self._join(subscriber, key, logs)
        piece = self._replay_piece(feed, cursor)
        self._begin(subscriber, opening if piece is None else opening + piece.chunk, now)
        if piece is not None:
            subscriber.cursor = piece.end
            self.delivered += piece.events
            if piece.ended is not None:
                self._end_topic(subscriber, piece.ended, now)
        self._settle(subscriber, subscriber.lag or Lag(now))
        return subscriber

    @staticmethod
    def _begin(subscriber: Subscriber, chunk: bytes, now: float) -> None:
        if subscriber.is_flushed():
            subscriber.write(chunk, now)
        else:  # an answer to a request before it on the same connection is still underway
            subscriber.write_behind(chunk, now)

    def _settle(self, subscriber: Subscriber, lag: Lag) -> None:
        """After a piece: done, or in the queue of those who are behind, or waiting for the transport."""
        feed = subscriber.feed
        if feed is None or subscriber.lag is not None:
            return
        end = feed.end(self._complete_to())
        if self._replay_piece(feed, subscriber.cursor) is not None:
            subscriber.lag = lag
            self._behind.append(subscriber)
            self._schedule()
            return
        subscriber.cursor = max(subscriber.cursor, end)
        if feed.key.floors:
            self._leave(subscriber)
            self._join(subscriber, feed.key._replace(floors=()), feed.logs)

    def _join(self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log]) -> Feed:
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(key, logs, self._complete_to())
            for topic, log in zip(key.topics, logs, strict=True):
                self._add_feed(topic, log, feed)
        subscriber.feed = feed
        subscriber.place = len(feed.subscribers)
        feed.subscribers.append(subscriber)
        for topic in key.topics:
            self._topics[topic].subscribers += 1
        return feed

    def _add_feed(self, topic: str, log: Log, feed: Feed) -> None:
        known = self._topics.get(topic)
        if known is None:
            known = self._topics[topic] = _Topic(log, log.last)
            log.hold = log.last
        known.feeds[feed] = None
        if feed.written < known.mark:
            known.waiting += 1

    def _leave(self, subscriber: Subscriber) -> None:
        feed = subscriber.feed
        assert feed is not None
        subscriber.feed = None
        last = feed.subscribers.pop()
        if last is not subscriber:
            feed.subscribers[subscriber.place] = last
            last.place = subscriber.place
        subscriber.place = -1
        for topic in feed.key.topics:
            self._topics[topic].subscribers -= 1
        if not feed.subscribers:
            self._drop_feed(feed)

    def _drop_feed(self, feed: Feed) -> None:
        del self._feeds[feed.key]
        self._shrink(feed.pending + feed.passing)
        feed.pending = feed.passing = 0
        for topic in feed.key.topics:
            known = self._topics[topic]
            del known.feeds[feed]
            if not known.feeds:
                del self._topics[topic]
                known.log.hold = None
                self._on_written(topic)
            elif feed.written < known.mark:
                self._one_less(topic, known)

    def detach(self, subscriber: Subscriber) -> None:
        """Take it off its feed: nothing more is written to it by fan-out."""
        feed = subscriber.feed
        if feed is not None:
            self._leave(subscriber)
            self._on_released(feed.key.topics)

    def finish(self, subscriber: Subscriber, reason: CloseReason, last: bytes = b"") -> None:
        """End its stream with `last`, between two events."""
        self.detach(subscriber)
        subscriber.finish(reason, last, self._monotonic())

    def cut(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """End its connection at once."""
        self.detach(subscriber)
        subscriber.cut(reason)

    def lost(self, subscriber: Subscriber, reason: CloseReason) -> None:
        self.detach(subscriber)
        last = self._seats.pop()
        if last is not subscriber:
            self._seats[subscriber.seat] = last
            last.seat = subscriber.seat
        subscriber.seat = -1
        self._on_closed(reason, self._monotonic() - subscriber.since)

    def flushed(self, subscriber: Subscriber) -> None:
        self._behind.append(subscriber)
        self._schedule()

    def _end_topic(self, subscriber: Subscriber, topic: str, now: float) -> None:
        """Take it off `topic`, whose end it was just written; off all that it reads, its stream ends.

        What it lacks of its other topics is written first, while the feed that it leaves still holds it.
        """
        feed = subscriber.feed
        assert feed is not None
        key, logs, ended = feed.key, feed.logs, [topic]
        key, logs = _without(key, logs, topic)
        while logs and subscriber.lag is None:
            rest = Feed(key, logs, subscriber.cursor)
            piece = rest.piece_after(subscriber.cursor, rest.end(self._complete_to()))
            if piece is None:
                break
            self._write(subscriber, piece, now)
            if piece.ended is not None:
                ended.append(piece.ended)
                key, logs = _without(key, logs, piece.ended)
        self._leave(subscriber)
        if logs:
            self._join(subscriber, key, logs)
            self._settle(subscriber, Lag(now))
        else:
            subscriber.finish(CloseReason.ENDED, b"", now)
        self._on_released(ended)

    def _write(self, subscriber: Subscriber, piece: Piece, now: float) -> None:
        subscriber.write(piece.chunk, now)
        subscriber.cursor = piece.end
        self.delivered += piece.events

    # Fan-out

    def delivered_to(self, topic: str, size: int) -> None:
        """The log of `topic` has grown by `size` bytes of frames."""
        known = self._topics.get(topic)
        if known is None:
            return
        self._replayed = None
        for feed in known.feeds:
            feed.pending += size
            self.backlog += size
            if not feed.queued:
                feed.queued = True
                self._queue.append(feed)
        if not known.waiting:
            self._set_mark(known)
        self._schedule()

    @staticmethod
    def _set_mark(known: _Topic) -> None:
        known.mark = known.log.last
        known.waiting = sum(feed.written < known.mark for feed in known.feeds)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        now = self._monotonic()
        self._bring_up(now)
        budget = SLICE_WRITES
        while self._queue and budget > 0:
            feed = self._queue.popleft()
            budget -= self._slice(feed, budget, now)
            if feed.unvisited is not None or feed.pending:
                self._queue.append(feed)
            else:
                feed.queued = False
        if self._queue or self._behind:
            self._schedule()

    def _slice(self, feed: Feed, budget: int, now: float) -> int:
        """Go on with the pass over `feed`, for about `budget` writes; returns what was used of it, at least 1."""
        if feed.unvisited is None:
            feed.unvisited = len(feed.subscribers)
            feed.target = feed.end(self._complete_to())
            feed.passing, feed.pending = feed.pending, 0
        subscribers, target = feed.subscribers, feed.target
        pieces: dict[EventId, Piece | None] = {}
        left = min(feed.unvisited, len(subscribers))
        stop_at = left - SLICE_VISITS
        writes = 1
        while left > 0 and left > stop_at and writes <= budget:
            left -= 1
            subscriber = subscribers[left]
            while subscriber.lag is None and subscriber.cursor < target:
                cursor = subscriber.cursor
                if cursor in pieces:
                    piece = pieces[cursor]
                else:
                    piece = pieces[cursor] = feed.piece_after(cursor, target)
                if piece is None:
                    break
                self._write(subscriber, piece, now)
                writes += 1
                if piece.ended is not None:
                    self._end_topic(subscriber, piece.ended, now)
                    break
            left = min(left, len(subscribers))
        feed.unvisited = left
        if not left:
            self._pass_done(feed)
        return writes

    def _pass_done(self, feed: Feed) -> None:
        before, feed.written = feed.written, feed.target
        feed.unvisited = None
        self._shrink(feed.passing)
        feed.passing = 0
        if not feed.subscribers:
            return
        for topic in feed.key.topics:
            known = self._topics[topic]
            if before < known.mark <= feed.written:
                self._one_less(topic, known)

    def _shrink(self, size: int) -> None:
        if size:
            self.backlog -= size
            self._on_shrunk()

    def _one_less(self, topic: str, known: _Topic) -> None:
        known.waiting -= 1
        if known.waiting:
            return
        known.log.hold = known.mark
        self._set_mark(known)
        if not known.waiting:  # the passes went further than the mark
            known.log.hold = known.mark
        self._on_written(topic)

    def _bring_up(self, now: float) -> None:
        for _ in range(min(len(self._behind), PIECES_PER_TURN)):
            subscriber = self._behind.popleft()
            feed, lag = subscriber.feed, subscriber.lag
            if feed is None or lag is None:
                continue
            if feed.is_past(subscriber.cursor):
                self.detach(subscriber)  # the walk closes it when the other side has what was written
                continue
            piece = self._replay_piece(feed, subscriber.cursor)
            subscriber.lag = None
            if piece is not None:
                self._write(subscriber, piece, now)
                if piece.ended is not None:
                    self._end_topic(subscriber, piece.ended, now)
            self._settle(subscriber, lag)

    def _replay_piece(self, feed: Feed, cursor: EventId) -> Piece | None:
        """The next piece; kept, since many reconnect with the same cursor."""
        if self._replayed is None or self._replayed[0] is not feed or self._replayed[1] != cursor:
            self._replayed = feed, cursor, feed.piece_after(cursor, feed.end(self._complete_to()))
        return self._replayed[2]

    # Silence

    def walk(self) -> None:
        """Look at every subscriber, in slices: heartbeats to the silent, the end for those who are stuck."""
        if self._unwalked is None:
            self._unwalked = len(self._seats)
            self._walk_slice()

    def _walk_slice(self) -> None:
        assert self._unwalked is not None
        now = self._monotonic()
        left = min(self._unwalked, len(self._seats))
        stop_at, writes = left - SLICE_VISITS, 0
        while left > 0 and left > stop_at and writes < SLICE_WRITES:
            left -= 1
            writes += self._look_at(self._seats[left], now)
        self._unwalked = left or None
        if left:
            self._call_soon(self._walk_slice)

    def _look_at(self, subscriber: Subscriber, now: float) -> bool:
        """Whether it cost a system call."""
        if subscriber.lag is None:
            silent = now - subscriber.wrote_at >= self._heartbeat_seconds and subscriber.feed is not None
            if silent:
                subscriber.write(sse.HEARTBEAT, now)
            return silent
        if subscriber.is_stuck(now, self._slow_seconds):
            self.cut(subscriber, CloseReason.SLOW)
        elif subscriber.feed is None and subscriber.is_acknowledged():
            subscriber.finish(CloseReason.SLOW, b"", now)
        return True


def _without(key: FeedKey, logs: Sequence[Log], topic: str) -> tuple[FeedKey, tuple[Log, ...]]:
    """`key` and `logs` less those of `topic`."""
    keep = [index for index, name in enumerate(key.topics) if name != topic]
    floors = tuple(key.floors[index] for index in keep) if key.floors else ()
    topics = tuple(key.topics[index] for index in keep)
    return FeedKey(topics, key.enveloped, floors), tuple(logs[index] for index in keep)
