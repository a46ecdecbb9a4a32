"""The subscribers of this instance, and the fan-out of what is delivered to them.

Rules: never waits (I3): every method is a `def`, and work that is long is cut into slices between which the loop does
other things. Knows logs, feeds and subscribers; no store, no HTTP.

A *pass* brings every subscriber of a feed that isn't lagging to the present end of its logs. It walks the feed's list
downwards, and whoever leaves is replaced by the last of the list: so nobody is skipped, whoever comes or goes meanwhile,
and who is met twice has nothing to be written. Subscribers that lag, or that replay, are brought up one piece a turn in
a queue of their own.

What is delivered stays in its log until the passes over it are done, and publishers wait while that is too much, which
bounds it (I4); `feeds` keeps the accounts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from broker.events import EventId
from broker.feed import PIECE_BYTES, Feed, FeedKey, Piece
from broker.feeds import Feeds
from broker.log import Log
from broker.subscriber import CloseReason, Lag, Subscriber, write_each
from broker.walk import Walk

SLICE_WRITES = 200  # about 2 ms
PIECES_PER_TURN = 50  # to those who are behind


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
        self.delivered = 0
        self._call_soon = call_soon
        self._monotonic = monotonic
        self._complete_to = complete_to
        self._on_released = on_released
        self._on_closed = on_closed
        self._feeds = Feeds(complete_to, on_written, on_shrunk)
        self._seats: list[Subscriber] = []
        self._queue: deque[Feed] = deque()
        self._behind: deque[Subscriber] = deque()
        self._replayed: tuple[Feed, EventId, Piece | None] | None = None
        self._scheduled = False
        self._defect: Exception | None = None
        self._walk = Walk(
            self._seats,
            call_soon=call_soon,
            monotonic=monotonic,
            on_stuck=self.cut,
            on_answered=self.flushed,
            heartbeat_seconds=heartbeat_seconds,
            slow_seconds=slow_seconds,
        )

    # Who is here

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._seats)

    @property
    def lagging(self) -> int:
        """How many of them lag or replay."""
        return sum(subscriber.lag is not None for subscriber in self._seats)

    @property
    def failure(self) -> Exception | None:
        """A defect that was met; from then on nobody can rely on what comes next."""
        return self._defect or self._walk.failure

    @property
    def backlog(self) -> int:
        """Bytes of events that are on their way to those who are up to date."""
        return self._feeds.backlog

    def backlog_of(self, topic: str) -> int:
        """The same for one topic."""
        return self._feeds.backlog_of(topic)

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        """All of them, at this moment."""
        return tuple(self._seats)

    def topics(self) -> Sequence[str]:
        """Those that somebody here is subscribed to."""
        return self._feeds.topics()

    def count(self, topic: str) -> int:
        """How many are subscribed to `topic` here."""
        return self._feeds.count(topic)

    def walk(self) -> None:
        """Look at every subscriber, in slices: heartbeats to the silent, the end for those who are stuck."""
        self._walk.begin()

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
        feed = self._feeds.join(subscriber, key, logs)
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
            self._feeds.leave(subscriber)
            self._feeds.join(subscriber, feed.key._replace(floors=()), feed.logs)

    def detach(self, subscriber: Subscriber) -> None:
        """Take it off its feed: nothing more is written to it by fan-out."""
        feed = subscriber.feed
        if feed is not None:
            self._feeds.leave(subscriber)
            self._on_released(feed.key.topics)

    def finish(self, subscriber: Subscriber, reason: CloseReason, last: bytes = b"") -> None:
        """End its stream with `last`, between two events, after what it may be written now."""
        now = self._monotonic()
        feed = subscriber.feed
        if reason is CloseReason.DRAINING and feed is not None:
            self._write_group(feed, [subscriber], feed.end(self._complete_to()), now)
        self.detach(subscriber)
        subscriber.finish(reason, last, now)

    def left(self, subscriber: Subscriber) -> None:
        self.finish(subscriber, CloseReason.CLIENT)

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
        self._feeds.leave(subscriber)
        if logs:
            self._feeds.join(subscriber, key, logs)
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
        self._replayed = None
        for feed in self._feeds.delivered(topic, size):
            feed.is_due = True
            if not feed.queued:
                feed.queued = True
                self._queue.append(feed)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        try:
            self._fan_out()
        except Exception as failure:
            self._defect = failure
            raise

    def _fan_out(self) -> None:
        self._scheduled = False
        now = self._monotonic()
        self._bring_up(now)
        budget = SLICE_WRITES
        while self._queue and budget > 0:
            feed = self._queue.popleft()
            budget -= self._slice(feed, budget, now)
            if feed.unvisited is not None or feed.is_due:
                self._queue.append(feed)
            else:
                feed.queued = False
        if self._queue or self._behind:
            self._schedule()

    def _slice(self, feed: Feed, budget: int, now: float) -> int:
        """Go on with the pass over `feed`, with about `budget` writes; returns how many, at least 1."""
        if feed.unvisited is None:
            self._feeds.begin_pass(feed)
        assert feed.unvisited is not None
        left = min(feed.unvisited, len(feed.subscribers))
        pieces = 1 + feed.bytes_due // PIECE_BYTES
        group = feed.subscribers[max(0, left - max(1, budget // pieces)) : left]
        if group:
            self._write_group(feed, group, feed.target, now)
        feed.unvisited = left - len(group)
        if not feed.unvisited:
            self._feeds.end_pass(feed)
        return len(group) * pieces or 1

    def _write_group(self, feed: Feed, group: Sequence[Subscriber], target: EventId, now: float) -> None:
        """Bring those of `group` who aren't lagging to `target`: those with the same cursor together."""
        while True:
            cursor = next((one.cursor for one in group if one.lag is None and one.cursor < target), None)
            if cursor is None:
                return
            piece = feed.piece_after(cursor, target)
            chunk, end, events, ended = piece or (b"", target, 0, None)
            if ended is not None:
                served = [one for one in group if one.lag is None and one.cursor == cursor]
                self.delivered += write_each(served, cursor, chunk, end, now) * events
                for subscriber in served:
                    self._end_topic(subscriber, ended, now)
                group = [one for one in group if one.feed is feed]
            else:
                self.delivered += write_each(group, cursor, chunk, end, now) * events

    def _bring_up(self, now: float) -> None:
        for _ in range(min(len(self._behind), PIECES_PER_TURN)):
            subscriber = self._behind.popleft()
            feed, lag = subscriber.feed, subscriber.lag
            if feed is None or lag is None or not subscriber.is_flushed():
                continue
            if feed.is_past(subscriber.cursor):
                self.finish(subscriber, CloseReason.SLOW)
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


def _without(key: FeedKey, logs: Sequence[Log], topic: str) -> tuple[FeedKey, tuple[Log, ...]]:
    """`key` and `logs` less those of `topic`."""
    keep = [index for index, name in enumerate(key.topics) if name != topic]
    floors = tuple(key.floors[index] for index in keep) if key.floors else ()
    topics = tuple(key.topics[index] for index in keep)
    return FeedKey(topics, key.enveloped, floors), tuple(logs[index] for index in keep)
