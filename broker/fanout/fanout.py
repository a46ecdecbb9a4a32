"""Fan-out: brings subscribers to the present end of the logs that they read.

Rules: never waits (I3): every method is a `def`, and long work is cut into parts, between which the loop does other
things. Knows feeds and subscribers; the hub decides when a subscriber comes and goes.

A *pass* brings every subscriber of a feed that doesn't lag to the present end of the feed's logs. It walks the list of
subscribers downwards, and a subscriber that leaves is replaced by the last one of the list. So it skips none while
others come and go; visiting a subscriber twice is harmless. Subscribers that lag or replay get one batch a turn, from a
queue of their own.

When a topic ends, its subscribers that read other topics too move on to another feed. That costs more than a write, so
a turn moves fewer of them.

Delivered events stay in their log until the passes over them are done. Publishers wait while these are too
many bytes (I4); `feed_table` counts them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic

from broker.events import EventId
from broker.fanout.backpressure import MAX_BYTES
from broker.fanout.close_reason import CloseReason
from broker.fanout.cuts import Cuts
from broker.fanout.feed import PIECE_BYTES, Batch, Feed, FeedKey
from broker.fanout.feed_table import FeedGroup, FeedTable
from broker.fanout.lag import Lag
from broker.fanout.owner import HubOwner, LogSource, Scheduler
from broker.fanout.subscriber import Subscriber
from broker.fanout.write_each import write_each
from broker.log.log import Log

WRITES_PER_TURN = 200  # about 2 ms
MOVE_WRITES = 4  # to move a subscriber to another feed costs as much as so many writes
TIMED_WRITES = 50  # fewer in a turn take less than a millisecond, and the turn's own time will do
BATCHES_PER_TURN = 5  # to subscribers that are behind; about 1 ms


class FanOut:
    """Writes the logs' entries to the subscribers of `feeds`.

    Attributes:
        delivered_events, replayed_events: written to subscribers so far; those of them that a stream began with.
        sent_bytes: written to streams so far, from the end of their heads on.
        failure: a defect; fan-out can't be relied on since.
    """

    def __init__(self, feeds: FeedTable, logs: LogSource, owner: HubOwner, loop: Scheduler) -> None:
        self.delivered_events = 0
        self.replayed_events = 0
        self.sent_bytes = 0
        self.failure: Exception | None = None
        self._feeds = feeds
        self._logs = logs
        self._owner = owner
        self._loop = loop
        self._queue: deque[FeedGroup] = deque()
        self._behind: deque[Subscriber] = deque()
        self._cuts = Cuts()
        self._written = owner.written
        self._is_scheduled = False

    def delivered(self, topic: str, size: int, published_at: float = 0.0) -> bool:
        """See `stores.base.StoreOwner.delivered`."""
        self._cuts.last_batch = self._cuts.last_piece = None
        for group in self._feeds.delivered(topic, size):
            group.bytes_delivered += size
            if not group.published_at:
                group.published_at = published_at
            if not group.is_queued:
                group.is_queued = True
                self._queue.append(group)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)
        if self._feeds.backlog <= MAX_BYTES:
            return True
        self._feeds.is_paused = True
        return False

    def begin(
        self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log], opening: bytes, now: float
    ) -> None:
        """Make `subscriber` a reader of `logs`, and write `opening` and its first batch.

        Without logs, its stream ends after `opening`.
        """
        self.sent_bytes += len(opening)
        if not logs:
            subscriber.write_first(opening, now)
            subscriber.finish(CloseReason.ENDED, b"", now)
            return
        feed = self._feeds.join(subscriber, key, logs)
        subscriber.topics = feed.key.topics  # all its subscribers share them
        if subscriber.cursor >= feed.end() and not key.floors:
            subscriber.write_first(opening, now)  # it lacks nothing, as most new ones
            return
        batch = self._cuts.batch_after(feed, subscriber.cursor)
        subscriber.write_first(opening if batch is None else opening + batch.chunk, now)
        if batch is not None:
            self._wrote(subscriber, batch, now)
            self.replayed_events += batch.events
        lag = subscriber.lag or Lag(now)
        lag.replay_from = 0.0 if batch is None else now
        self._settle(subscriber, lag, now)

    def release(self, subscriber: Subscriber) -> None:
        """Take `subscriber` off its feed: fan-out writes nothing more to it."""
        feed = subscriber.feed
        if feed is not None:
            self._feeds.leave(subscriber)
            self._logs.unwatch(feed.key.topics)

    def bring_to_end(self, subscriber: Subscriber, now: float) -> None:
        """Write to `subscriber` everything it lacks, at once, unless it lags."""
        feed = subscriber.feed
        if feed is not None:
            self._write_to(feed, [subscriber], feed.end(), 1, now)

    def flushed(self, subscriber: Subscriber) -> None:
        """A lagging subscriber can be written to again."""
        self._behind.append(subscriber)
        self._schedule()

    # Turns

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        now = self._loop.time()
        try:
            if self._behind:
                self._bring_up(now)
            budget = WRITES_PER_TURN
            while self._queue and budget > 0:
                group = self._queue.popleft()
                writes = self._write_newest(group, now) if group.unvisited is None else 0
                if writes:
                    budget -= writes
                    group.is_queued = False
                    continue
                budget -= self._continue_pass(group, budget, now)
                if group.unvisited is None and group.published_at is None:
                    group.is_queued = False
                else:
                    self._queue.append(group)
        except Exception as failure:
            self.failure = failure
            raise
        if self._queue or self._behind:
            self._schedule()

    # Subscribers that are up to date

    def _write_newest(self, group: FeedGroup, now: float) -> int:
        """Make a whole pass if all of a few subscribers lack only the newest event, as most do.

        Returns the number of writes; 0 if the pass isn't done.
        """
        feed, subscribers, published_at = group.feed, group.subscribers, group.published_at
        log = feed.only_log
        if log is None or group.polls or not 0 < len(subscribers) < TIMED_WRITES:
            return 0
        entry = log.newest_after(group.written)
        if entry is None:
            return 0
        chunk = feed.chunk_of(entry)
        written = write_each(subscribers, group.written, chunk, 1, entry.id, now)
        self.delivered_events += written
        self.sent_bytes += written * len(chunk)
        if written < len(subscribers):  # some lag, or lack more
            return 0
        if published_at:
            if now - published_at <= self._written.least:
                self._written.within_least += 1  # as most are: it costs no call
            else:
                self._written.observe(monotonic() - published_at)
        self._feeds.passed(group, entry.id)
        return written

    def _continue_pass(self, group: FeedGroup, budget: int, now: float) -> int:
        """Continue the pass, with about `budget` writes; returns how many it took, at least 1."""
        if group.unvisited is None:
            self._feeds.begin_pass(group)
        assert group.unvisited is not None
        stop = min(group.unvisited, len(group.subscribers))
        pieces = 1 + group.bytes_due // PIECE_BYTES
        count, cost = group.affordable(stop, max(1, budget // pieces))
        some = group.subscribers[stop - count : stop]
        moved = self._write_to(group.feed, some, group.target, budget, now)
        group.unvisited = min(stop, len(group.subscribers)) if moved else stop - len(some)
        if not group.unvisited:
            self._feeds.end_pass(group)
            if group.pass_published_at:
                self._written.observe(monotonic() - group.pass_published_at)
        return cost * pieces + moved * MOVE_WRITES or 1

    def _write_to(
        self, feed: Feed, subscribers: Sequence[Subscriber], target: EventId, budget: int, now: float
    ) -> int:
        """Bring those of `subscribers` that don't lag to `target`: those with the same cursor together.

        Stops at the end of a topic, and returns how many have moved on to other feeds: as many as `budget` allows, at least
        1. Some may not be at `target` then. 0 means that all are.
        """
        while True:
            for subscriber in subscribers:
                if subscriber.lag is None and subscriber.cursor < target:
                    cursor = subscriber.cursor
                    break
            else:
                return 0
            piece = self._cuts.piece_after(feed, cursor, target)
            chunk, end, events, ended, gaps, _ = piece or (b"", target, 0, (), (), False)
            if ended:
                here = [one for one in subscribers if one.lag is None and one.cursor == cursor]
                return self._write_ends(feed, here[: max(1, budget // MOVE_WRITES)], cursor, now)
            written = write_each(subscribers, cursor, chunk, events, end, now)
            self.delivered_events += written * events
            self.sent_bytes += written * len(chunk)
            if gaps:
                self._gaps_sent(feed, gaps, written)

    def _write_ends(self, feed: Feed, subscribers: Sequence[Subscriber], cursor: EventId, now: float) -> int:
        """Bring `subscribers`, all at `cursor`, to the present end, and off topics that end on the way.

        They get everything before they leave the feed, because then no trim barrier keeps it for them. Returns their
        number.
        """
        ended: tuple[str, ...] = ()
        reason = CloseReason.ENDED
        reading = subscribers
        while reading and (batch := self._cuts.batch_after(feed, cursor)) is not None:
            written = write_each(reading, cursor, batch.chunk, batch.events, batch.end, now)
            self._count(feed, batch, written)
            cursor, feed, ended = batch.end, batch.rest, ended + batch.ended
            if batch.is_cut:
                reason = CloseReason.GAP
            for one in reading:
                if one.lag is not None:
                    self._move(one, feed, ended, reason, now)
            reading = [one for one in reading if one.lag is None]
        for one in reading:
            self._move(one, feed, ended, reason, now)
        return len(subscribers)

    def _move(
        self, subscriber: Subscriber, rest: Feed, ended: Sequence[str], reason: CloseReason, now: float
    ) -> None:
        """Move `subscriber` from the `ended` topics to `rest`. If `rest` has no topic, end its stream for `reason`."""
        if rest.logs:
            self._feeds.move(subscriber, rest.key, rest.logs)
            self._settle(subscriber, Lag(now), now)
        else:
            self._feeds.leave(subscriber)
            subscriber.finish(reason, b"", now)
        self._logs.unwatch(ended)

    def _count(self, feed: Feed, batch: Batch, subscribers: int) -> None:
        """So many `subscribers` of `feed` were written `batch`."""
        self.delivered_events += subscribers * batch.events
        self.sent_bytes += subscribers * len(batch.chunk)
        self._gaps_sent(feed, batch.gaps, subscribers)

    def _gaps_sent(self, feed: Feed, reasons: Sequence[str], subscribers: int) -> None:
        for reason in reasons:
            self._owner.gap_sent(feed.key.topics, reason, subscribers)

    # Subscribers that are behind

    def _bring_up(self, now: float) -> None:
        """Write one batch to each of some queued subscribers."""
        for _ in range(min(len(self._behind), BATCHES_PER_TURN)):
            subscriber = self._behind.popleft()
            feed, lag = subscriber.feed, subscriber.lag
            if feed is None or lag is None or not subscriber.is_flushed():
                continue
            if feed.has_moved_past(subscriber.cursor):
                self.release(subscriber)
                subscriber.finish(CloseReason.SLOW, b"", now)
                continue
            batch = self._cuts.batch_after(feed, subscriber.cursor)
            subscriber.end_lag()
            control_event, lag.control_event = lag.control_event, b""
            chunk = control_event if batch is None else control_event + batch.chunk
            if chunk:
                subscriber.write(chunk, now)
                self.sent_bytes += len(control_event)
            if batch is not None:
                self._wrote(subscriber, batch, now)
                self.replayed_events += batch.events if lag.replay_from else 0
            if subscriber.lag is not None:
                subscriber.lag.continues(lag)
            self._settle(subscriber, lag, now)

    def _wrote(self, subscriber: Subscriber, batch: Batch, now: float) -> None:
        subscriber.cursor = batch.end
        subscriber.own_events += batch.events
        if subscriber.feed is not None:
            self._count(subscriber.feed, batch, 1)
        if batch.ended:
            reason = CloseReason.GAP if batch.is_cut else CloseReason.ENDED
            self._move(subscriber, batch.rest, batch.ended, reason, now)

    def _settle(self, subscriber: Subscriber, lag: Lag, now: float) -> None:
        """After a batch: `subscriber` is up to date, or queued again, or waits for its transport."""
        feed = subscriber.feed
        if feed is None or subscriber.lag is not None:
            return
        end = feed.end()
        if feed.lacks(subscriber.cursor, end):
            subscriber.lag = lag
            self.flushed(subscriber)
            return
        subscriber.cursor = max(subscriber.cursor, end)
        if lag.replay_from:
            self._owner.replayed(now - lag.replay_from)
        if feed.key.floors:  # the cursor is past them
            self._feeds.move(subscriber, feed.key._replace(floors=()), feed.logs)
