"""The subscribers of this instance: who they are, how they come, and how they go.

Rules: never waits (I3): every method is a `def`. Knows logs, feeds and subscribers; no store, no HTTP. What they are
written is the fan-out's business, heartbeats and the end of those who are stuck are the walk's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from broker.auth.grants import Caller
from broker.events import EventId
from broker.fanout.fanout import FanOut
from broker.fanout.feed import FeedKey
from broker.fanout.feed_table import FeedTable
from broker.fanout.subscriber import CloseReason, Subscriber
from broker.fanout.sweeper import Sweeper
from broker.log.log import Log


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
        on_gap: called with the reason of a gap that lies within a log, and how many were told of it.
        on_aged: called with a subscriber whose stream is to be ended, for it is old enough.
        heartbeat_seconds: silence after which a comment is written.
        slow_seconds: how long a lagging subscriber may take nothing.
        max_age_seconds: how old a connection gets at most; 0 for no bound.
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
        on_closed: Callable[[Subscriber, CloseReason, float], None],
        on_gap: Callable[[str, int], None],
        on_aged: Callable[[Subscriber], None],
        heartbeat_seconds: float,
        slow_seconds: float,
        max_age_seconds: float,
    ) -> None:
        self._monotonic = monotonic
        self._on_released = on_released
        self._on_closed = on_closed
        self._seats: list[Subscriber] = []
        self._feeds = FeedTable(complete_to, on_written, on_shrunk)
        self._fan_out = FanOut(
            self._feeds,
            call_soon=call_soon,
            monotonic=monotonic,
            complete_to=complete_to,
            on_released=on_released,
            on_past=lambda subscriber: self.finish(subscriber, CloseReason.SLOW),
            on_gap=on_gap,
        )
        self._walk = Sweeper(
            self._seats,
            call_soon=call_soon,
            monotonic=monotonic,
            on_stuck=self.cut,
            on_answered=self.flushed,
            on_aged=on_aged,
            heartbeat_seconds=heartbeat_seconds,
            slow_seconds=slow_seconds,
            max_age_seconds=max_age_seconds,
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
        return self._fan_out.failure or self._walk.failure

    @property
    def delivered(self) -> int:
        """Events written to subscribers so far."""
        return self._fan_out.delivered

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

    def subscribers_of(self, topic: str) -> Sequence[Subscriber]:
        """Those of `topic`, at this moment."""
        return self._feeds.subscribers_of(topic)

    def walk(self) -> None:
        """Look at every subscriber, in slices: heartbeats to the silent, the end for those who are stuck."""
        self._walk.begin()

    # Coming and going

    def attach(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        key: FeedKey,
        logs: Sequence[Log],
        cursor: EventId,
        opening: bytes,
    ) -> Subscriber:
        """Make `caller` a subscriber at `cursor`, write `opening` to it and what it lacks, as far as that is one piece.

        `logs` are those of `key.topics` and joined on to `cursor` and `key.floors` when this is called; nothing may
        happen to them between that check and this call.
        """
        now = self._monotonic()
        subscriber = Subscriber(transport, self, caller, cursor, now)
        subscriber.hub_index = len(self._seats)
        self._seats.append(subscriber)
        self._fan_out.begin(subscriber, key, logs, opening, now)
        return subscriber

    def delivered_to(self, topic: str, size: int) -> None:
        """The log of `topic` has grown by `size` bytes of frames."""
        self._fan_out.delivered_to(topic, size)

    def notify(self, subscriber: Subscriber, notice: bytes) -> None:
        """Write it a control event without an id, between two events; who lags gets the latest one when it can be written to."""
        if subscriber.lag is None:
            subscriber.write(notice, self._monotonic())
        else:
            subscriber.lag.notice = notice

    def detach(self, subscriber: Subscriber) -> None:
        """Take it off its feed: nothing more is written to it by fan-out."""
        feed = subscriber.feed
        if feed is not None:
            self._feeds.leave(subscriber)
            self._on_released(feed.key.topics)

    def finish(self, subscriber: Subscriber, reason: CloseReason, last: bytes = b"") -> None:
        """End its stream with `last`, between two events, after what it may be written now."""
        now = self._monotonic()
        if reason in (CloseReason.DRAINING, CloseReason.MAX_AGE, CloseReason.EXPIRED):
            self._fan_out.bring_to_end(subscriber, now)
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
            self._seats[subscriber.hub_index] = last
            last.hub_index = subscriber.hub_index
        subscriber.hub_index = -1
        self._on_closed(subscriber, reason, self._monotonic() - subscriber.since)

    def flushed(self, subscriber: Subscriber) -> None:
        self._fan_out.flushed(subscriber)
