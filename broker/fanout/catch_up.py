"""Catch-up: batches for subscribers that are behind, that begin, or whose topics end.

Rules: as for `fanout`, whose turns call it. A subscriber that lags or replays gets one batch a turn. One whose topic ends gets
everything before it leaves the feed, because then no trim barrier keeps it for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from broker.events import EventId
from broker.fanout.close_reason import CloseReason
from broker.fanout.cuts import Cuts
from broker.fanout.feed import Batch, Feed, FeedKey
from broker.fanout.feed_table import FeedTable
from broker.fanout.lag import Lag
from broker.fanout.owner import HubOwner, LogSource
from broker.fanout.subscriber import Subscriber
from broker.fanout.write_each import write_each
from broker.log.log import Log

BATCHES_PER_TURN = 5  # about 1 ms


class Sent:
    """What was written to streams so far.

    Attributes:
        events, replayed_events: their number; those of them that a stream began with.
        bytes: from the end of the streams' heads on.
    """

    __slots__ = ("bytes", "events", "replayed_events")

    def __init__(self) -> None:
        self.events = self.replayed_events = self.bytes = 0


class Turns(Protocol):
    """Fan-out."""

    def schedule(self) -> None:
        """Have a turn soon, which calls `CatchUp.bring_up`."""


class CatchUp:
    """Brings subscribers of `feeds` to the end of their logs, batch by batch.

    Attributes:
        queue: the subscribers that are behind and can be written to.
    """

    def __init__(
        self, feeds: FeedTable, logs: LogSource, owner: HubOwner, turns: Turns, cuts: Cuts, sent: Sent
    ) -> None:
        self.queue: deque[Subscriber] = deque()
        self._feeds = feeds
        self._logs = logs
        self._owner = owner
        self._turns = turns
        self._cuts = cuts
        self._sent = sent

    def begin(
        self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log], opening: bytes, now: float
    ) -> None:
        """Make `subscriber` a reader of `logs`, and write `opening` and its first batch.

        Without logs, its stream ends after `opening`.
        """
        self._sent.bytes += len(opening)
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
            self._sent.replayed_events += batch.events
        lag = subscriber.lag or Lag(now)
        lag.replay_from = 0.0 if batch is None else now
        self._settle(subscriber, lag, now)

    def release(self, subscriber: Subscriber) -> None:
        """Take `subscriber` off its feed: fan-out writes nothing more to it."""
        feed = subscriber.feed
        if feed is not None:
            self._feeds.leave(subscriber)
            self._logs.unwatch(feed.key.topics)

    def flushed(self, subscriber: Subscriber) -> None:
        """A lagging subscriber can be written to again."""
        self.queue.append(subscriber)
        self._turns.schedule()

    def bring_up(self, now: float) -> None:
        """Write one batch to each of some queued subscribers."""
        for _ in range(min(len(self.queue), BATCHES_PER_TURN)):
            subscriber = self.queue.popleft()
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
                self._sent.bytes += len(control_event)
            if batch is not None:
                self._wrote(subscriber, batch, now)
                self._sent.replayed_events += batch.events if lag.replay_from else 0
            if subscriber.lag is not None:
                subscriber.lag.continues(lag)
            self._settle(subscriber, lag, now)

    def write_ends(self, feed: Feed, subscribers: Sequence[Subscriber], cursor: EventId, now: float) -> int:
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
        self._sent.events += subscribers * batch.events
        self._sent.bytes += subscribers * len(batch.chunk)
        self.gaps_sent(feed, batch.gaps, subscribers)

    def gaps_sent(self, feed: Feed, reasons: Sequence[str], subscribers: int) -> None:
        """So many `subscribers` of `feed` were written gaps with these reasons."""
        for reason in reasons:
            self._owner.gap_sent(feed.key.topics, reason, subscribers)
