"""Fan-out: brings subscribers to the present end of the logs that they read.

Rules: never waits (I3): every method is a `def`, and long work is cut into parts, between which the loop does other
things. Knows feeds and subscribers; the hub decides when a subscriber comes and goes.

A *pass* brings every subscriber of a feed that doesn't lag to the present end of the feed's logs. It walks the list of
subscribers downwards, and a subscriber that leaves is replaced by the last one of the list. So it skips none while
others come and go; visiting a subscriber twice is harmless. `catch_up` serves subscribers that lag or replay.

An event that is alone, or some that arrive together, reach a few subscribers at once, within the publish: to plan a turn would
cost as much as the writes. Events that follow closely are left to a turn, which joins them, and so is everything beyond a few
writes.

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
from broker.fanout.catch_up import CatchUp, Sent
from broker.fanout.cuts import Cuts
from broker.fanout.feed import PIECE_BYTES, Feed
from broker.fanout.feed_group import NOT_DUE, FeedGroup
from broker.fanout.feed_table import FeedTable
from broker.fanout.owner import HubOwner, LogSource, Scheduler
from broker.fanout.subscriber import Subscriber
from broker.fanout.write_each import write_each

WRITES_PER_TURN = 200  # about 2 ms
MOVE_WRITES = 4  # to move a subscriber to another feed costs as much as so many writes
FEW = 16  # subscribers
WRITES_AT_ONCE = 100  # until the loop's time goes on, by a millisecond in uvloop; about 1 ms
JOIN_SECONDS = 0.001
"""Events of a topic that follow one another faster leave together."""


class FanOut:
    """Writes the logs' entries to the subscribers of `feeds`.

    Attributes:
        sent: what was written so far.
        catch_up: to be called for subscribers that begin, leave or can be written to again.
        failure: a defect; fan-out can't be relied on since.
    """

    def __init__(self, feeds: FeedTable, logs: LogSource, owner: HubOwner, loop: Scheduler) -> None:
        self.sent = Sent()
        self.failure: Exception | None = None
        self._feeds = feeds
        self._loop = loop
        self._queue: deque[FeedGroup] = deque()
        self._cuts = Cuts()
        self.catch_up = CatchUp(feeds, logs, owner, self, self._cuts, self.sent)
        self._written = owner.written
        self._is_scheduled = False
        self._at_once_now = 0.0  # the loop's time when `_at_once_left` was set
        self._at_once_left = 0

    def delivered(self, topic: str, size: int, published_at: float = 0.0) -> bool:
        """See `stores.base.StoreOwner.delivered`."""
        self._cuts.last_batch = self._cuts.last_piece = None
        for group in self._feeds.delivered(topic, size):
            group.bytes_delivered += size
            if group.published_at <= 0.0:
                group.published_at = published_at
            if not group.is_queued:
                group.is_queued = True
                self._queue.append(group)
        self.schedule()
        if self._feeds.backlog <= MAX_BYTES:
            return True
        self._feeds.is_paused = True
        return False

    def delivered_at_once(self, topic: str, size: int) -> bool:
        """See `stores.base.StoreOwner.delivered_at_once`."""
        group = self._feeds.resting(topic)
        now = self._loop.time()
        if group is None:
            return self.delivered(topic, size, now)
        writes = len(group.subscribers)
        if now != self._at_once_now:
            self._at_once_now, self._at_once_left = now, WRITES_AT_ONCE
        if writes > FEW or writes > self._at_once_left or now - group.wrote_at < JOIN_SECONDS:
            return self.delivered(topic, size, now)
        group.wrote_at = now
        self._at_once_left -= writes
        self._cuts.last_batch = None
        try:
            end = self._write_newest(group, now)
        except Exception as failure:
            self.failure = failure
            raise
        if not end:
            return self.delivered(topic, size, now)
        self._written.within_least += 1
        self._feeds.written_at_once(topic, group, end)
        return True

    def bring_to_end(self, subscriber: Subscriber, now: float) -> None:
        """Write to `subscriber` everything it lacks, at once, unless it lags."""
        feed = subscriber.feed
        if feed is not None:
            self._write_to(feed, [subscriber], feed.end(), 1, now)

    # Turns

    def schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        now = self._loop.time()
        try:
            if self.catch_up.queue:
                self.catch_up.bring_up(now)
            budget = WRITES_PER_TURN
            while self._queue and budget > 0:
                group = self._queue.popleft()
                is_small = len(group.subscribers) <= FEW and not group.polls and group.unvisited is None
                end = self._write_newest(group, now) if is_small else 0
                if end:
                    budget -= len(group.subscribers)
                    if group.published_at > 0.0:
                        if now - group.published_at <= self._written.least:
                            self._written.within_least += 1  # as most are: it costs no call
                        else:
                            self._written.observe(now - group.published_at)
                    self._feeds.passed(group, end)
                    continue
                budget -= self._continue_pass(group, budget, now)
                if group.unvisited is None and group.published_at == NOT_DUE:
                    group.is_queued = False
                else:
                    self._queue.append(group)
        except Exception as failure:
            self.failure = failure
            raise
        if self._queue or self.catch_up.queue:
            self.schedule()

    # Subscribers that are up to date

    def _write_newest(self, group: FeedGroup, now: float) -> EventId:
        """Make a whole pass if all of a few subscribers lack only the newest events. Returns the last id; 0 if the pass isn't done."""
        feed, subscribers = group.feed, group.subscribers
        log = feed.only_log
        if log is None or not subscribers:
            return 0
        entry = log.newest_after(group.written)
        if entry is not None:
            chunk, end, events = feed.chunk_of(entry), entry.id, 1
        else:
            piece = feed.few_after(log, group.written, log.last)
            if piece is None or piece.end != log.last:
                return 0
            chunk, end, events = piece.chunk, piece.end, piece.events
        written = write_each(subscribers, group.written, chunk, events, end, now)
        sent = self.sent
        sent.events += written * events
        sent.bytes += written * len(chunk)
        return end if written == len(subscribers) else 0  # else some lag, or lack more

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
            if group.pass_published_at > 0.0:
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
                return self.catch_up.write_ends(feed, here[: max(1, budget // MOVE_WRITES)], cursor, now)
            written = write_each(subscribers, cursor, chunk, events, end, now)
            self.sent.events += written * events
            self.sent.bytes += written * len(chunk)
            if gaps:
                self.catch_up.gaps_sent(feed, gaps, written)
