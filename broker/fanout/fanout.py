"""Fan-out: brings subscribers to the present end of the logs that they read.

Rules: never waits (I3): every method is a `def`, and work that is long is cut into slices between which the loop does
other things. Knows feeds and subscribers; who there is, and why somebody leaves, is the hub's business.

A *pass* brings every subscriber of a feed that isn't lagging to the present end of its logs. It walks the feed's list
downwards, and whoever leaves is replaced by the last of the list: so nobody is skipped, whoever comes or goes meanwhile,
and who is met twice has nothing to be written. Subscribers that lag, or that replay, are brought up one piece a turn in
a queue of their own.

Where a topic ends, those who read others too move on to another feed. That costs more than a write, so a slice moves
fewer, and visits the others of its group again.

What is delivered stays in its log until the passes over it are done, and publishers wait while that is too much, which
bounds it (I4); `feeds` keeps the accounts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from broker.events import EventId
from broker.fanout.feed import PIECE_BYTES, Batch, Feed, FeedKey, stretch_after
from broker.fanout.feed_table import FeedTable
from broker.fanout.subscriber import CloseReason, Lag, Subscriber, write_each
from broker.log.log import Log

SLICE_WRITES = 200  # about 2 ms
MOVE_WRITES = 4  # so many writes cost what it costs to take one off topics that have ended
PIECES_PER_TURN = 5  # to those who are behind; about 1 ms


class FanOut:
    """See the module.

    Args:
        feeds: who reads what.
        call_soon: schedules a callable for the loop's next turn.
        monotonic: the loop's time in seconds.
        complete_to: up to where the logs are complete; see `stores.base.Store`.
        on_released: called with topics that a subscriber no longer needs.
        on_past: called with a subscriber that the logs have moved past; it is to be ended.
        on_gap: called with the reason of a gap that lies within a log, and how many were told of it.

    Attributes:
        delivered: events written to subscribers so far.
        failure: a defect that was met; from then on nobody can rely on what comes next.
    """

    def __init__(
        self,
        feeds: FeedTable,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        monotonic: Callable[[], float],
        complete_to: Callable[[], EventId],
        on_released: Callable[[Sequence[str]], None],
        on_past: Callable[[Subscriber], None],
        on_gap: Callable[[str, int], None],
    ) -> None:
        self.delivered = 0
        self.failure: Exception | None = None
        self._feeds = feeds
        self._call_soon = call_soon
        self._monotonic = monotonic
        self._complete_to = complete_to
        self._on_released = on_released
        self._on_past = on_past
        self._on_gap = on_gap
        self._queue: deque[Feed] = deque()
        self._behind: deque[Subscriber] = deque()
        self._kept: tuple[Feed, EventId, Batch] | None = None
        self._scheduled = False

    def begin(
        self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log], opening: bytes, now: float
    ) -> None:
        """Make `subscriber` a reader of `logs`; write `opening` and what it lacks, as far as that is one piece.

        Without any log its stream ends with `opening`.
        """
        if not logs:
            _write_first(subscriber, opening, now)
            subscriber.finish(CloseReason.ENDED, b"", now)
            return
        feed = self._feeds.join(subscriber, key, logs)
        stretch = self._stretch(feed, subscriber.cursor)
        _write_first(subscriber, opening if stretch is None else opening + stretch.chunk, now)
        if stretch is not None:
            self._wrote(subscriber, stretch, now)
        self._settle(subscriber, subscriber.lag or Lag(now))

    def bring_to_end(self, subscriber: Subscriber, now: float) -> None:
        """Write it what it lacks, at once, unless it lags."""
        feed = subscriber.feed
        if feed is not None:
            self._write_group(feed, [subscriber], feed.end(self._complete_to()), 1, now)

    def flushed(self, subscriber: Subscriber) -> None:
        """A lagging subscriber can be written to again."""
        self._behind.append(subscriber)
        self._schedule()

    def delivered_to(self, topic: str, size: int) -> None:
        """The log of `topic` has grown by `size` bytes of frames."""
        self._kept = None
        for feed in self._feeds.delivered(topic, size):
            feed.is_due = True
            if not feed.queued:
                feed.queued = True
                self._queue.append(feed)
        self._schedule()

    # Turns

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        try:
            self._fan_out()
        except Exception as failure:
            self.failure = failure
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

    # Those who are up to date

    def _slice(self, feed: Feed, budget: int, now: float) -> int:
        """Go on with the pass over `feed`, with about `budget` writes; returns how many, at least 1."""
        if feed.unvisited is None:
            self._feeds.begin_pass(feed)
        assert feed.unvisited is not None
        left = min(feed.unvisited, len(feed.subscribers))
        pieces = 1 + feed.bytes_due // PIECE_BYTES
        group = feed.subscribers[max(0, left - max(1, budget // pieces)) : left]
        moved = self._write_group(feed, group, feed.target, budget, now)
        feed.unvisited = min(left, len(feed.subscribers)) if moved else left - len(group)
        if not feed.unvisited:
            self._feeds.end_pass(feed)
        return len(group) * pieces + moved * MOVE_WRITES or 1

    def _write_group(
        self, feed: Feed, group: Sequence[Subscriber], target: EventId, budget: int, now: float
    ) -> int:
        """Bring those of `group` who aren't lagging to `target`: those with the same cursor together.

        At the end of a topic it stops, and returns how many have moved on to other feeds: as many as `budget` allows, at
        least 1. Some of `group` may be left then; 0 means that nobody is.
        """
        while True:
            cursor = next((one.cursor for one in group if one.lag is None and one.cursor < target), None)
            if cursor is None:
                return 0
            piece = feed.piece_after(cursor, target)
            chunk, end, events, ended, gaps = piece or (b"", target, 0, None, ())
            if ended is not None:
                served = [one for one in group if one.lag is None and one.cursor == cursor]
                return self._write_ends(feed, served[: max(1, budget // MOVE_WRITES)], cursor, now)
            self._count(write_each(group, cursor, chunk, end, now), events, gaps)

    def _write_ends(self, feed: Feed, group: Sequence[Subscriber], cursor: EventId, now: float) -> int:
        """Bring `group`, all at `cursor`, to the present end, and off the topics that end on the way; returns how many.

        They are written everything before they leave the feed: afterwards nothing would hold it for them.
        """
        ended: tuple[str, ...] = ()
        reading = group
        while reading and (stretch := self._stretch(feed, cursor)) is not None:
            written = write_each(reading, cursor, stretch.chunk, stretch.end, now)
            self._count(written, stretch.events, stretch.gaps)
            cursor, feed, ended = stretch.end, stretch.rest, ended + stretch.ended
            for one in reading:
                if one.lag is not None:
                    self._move(one, feed, ended, now)
            reading = [one for one in reading if one.lag is None]
        for one in reading:
            self._move(one, feed, ended, now)
        return len(group)

    def _move(self, subscriber: Subscriber, rest: Feed, ended: Sequence[str], now: float) -> None:
        """Take it off topics whose ends it was just written, on to `rest`; where nothing is left its stream ends."""
        self._feeds.leave(subscriber)
        if rest.logs:
            self._feeds.join(subscriber, rest.key, rest.logs)
            self._settle(subscriber, Lag(now))
        else:
            subscriber.finish(CloseReason.ENDED, b"", now)
        self._on_released(ended)

    # Those who are behind

    def _bring_up(self, now: float) -> None:
        for _ in range(min(len(self._behind), PIECES_PER_TURN)):
            subscriber = self._behind.popleft()
            feed, lag = subscriber.feed, subscriber.lag
            if feed is None or lag is None or not subscriber.is_flushed():
                continue
            if feed.is_past(subscriber.cursor):
                self._on_past(subscriber)
                continue
            stretch = self._stretch(feed, subscriber.cursor)
            subscriber.lag = None
            notice, lag.notice = lag.notice, b""
            if stretch is not None:
                subscriber.write(notice + stretch.chunk if notice else stretch.chunk, now)
                self._wrote(subscriber, stretch, now)
            elif notice:
                subscriber.write(notice, now)
            self._settle(subscriber, lag)

    def _wrote(self, subscriber: Subscriber, stretch: Batch, now: float) -> None:
        subscriber.cursor = stretch.end
        self._count(1, stretch.events, stretch.gaps)
        if stretch.ended:
            self._move(subscriber, stretch.rest, stretch.ended, now)

    def _count(self, subscribers: int, events: int, gaps: Sequence[str]) -> None:
        self.delivered += subscribers * events
        for reason in gaps:
            self._on_gap(reason, subscribers)

    def _settle(self, subscriber: Subscriber, lag: Lag) -> None:
        """After a piece: done, or in the queue of those who are behind, or waiting for the transport."""
        feed = subscriber.feed
        if feed is None or subscriber.lag is not None:
            return
        end = feed.end(self._complete_to())
        if feed.lacks(subscriber.cursor, end):
            subscriber.lag = lag
            self._behind.append(subscriber)
            self._schedule()
            return
        subscriber.cursor = max(subscriber.cursor, end)
        if feed.key.floors:
            self._feeds.leave(subscriber)
            self._feeds.join(subscriber, feed.key._replace(floors=()), feed.logs)

    def _stretch(self, feed: Feed, cursor: EventId) -> Batch | None:
        """The next stretch; kept, since many reconnect with the same cursor, or meet the same ends."""
        if self._kept is not None and self._kept[0] is feed and self._kept[1] == cursor:
            return self._kept[2]
        stretch = stretch_after(feed, cursor, self._complete_to())
        if stretch is not None:  # that there is nothing is soon found, and asked after each stretch
            self._kept = feed, cursor, stretch
        return stretch


def _write_first(subscriber: Subscriber, chunk: bytes, now: float) -> None:
    if subscriber.is_flushed():
        subscriber.write(chunk, now)
    else:  # an answer to a request before it on the same connection is still underway
        subscriber.write_behind(chunk, now)
