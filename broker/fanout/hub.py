"""The subscribers of this instance: how they come, and how they go.

Rules: never waits (I3): every method is a `def`. Knows logs, feeds and subscribers; no store, no HTTP. Fan-out decides
what to write to them, the sweeper when they are stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from broker.auth.grants import Caller
from broker.events import EventId
from broker.fanout.close_reason import CloseReason
from broker.fanout.fanout import FanOut
from broker.fanout.feed import FeedKey
from broker.fanout.feed_table import FeedTable
from broker.fanout.owner import HubOwner, LogSource, Scheduler, StreamTimes
from broker.fanout.poll import Poll, Responder
from broker.fanout.subscriber import Subscriber
from broker.fanout.sweeper import Sweeper
from broker.log.log import Log

MAX_MEASURED = 200
"""Of the lagging subscribers, in one turn of the loop: with 32 topics one takes 50 µs, and after a failure thousands lag."""


class LaggingFigures(NamedTuple):
    """Of the subscribers that lag or replay.

    Attributes:
        number: how many they are.
        bytes, max_bytes: about how much they lack, all together and the one that lacks most. Of more than `MAX_MEASURED`, so many
            and the one that has lagged longest stand for all.
        max_seconds: for how long one of them has lagged.
    """

    number: int
    bytes: int
    max_bytes: int
    max_seconds: float


class Hub:
    """All subscribers, and the parts that serve them.

    Attributes:
        feeds: the feeds with their subscribers, and how much is on its way.
        fan_out: to be called for each delivery of the store.
    """

    def __init__(self, owner: HubOwner, logs: LogSource, loop: Scheduler, times: StreamTimes) -> None:
        self._owner = owner
        self._loop = loop
        self._subscribers: list[Subscriber] = []
        self.feeds = FeedTable(logs)
        self.fan_out = FanOut(self.feeds, logs, owner, loop)
        self._sweeper = Sweeper(self._subscribers, self.fan_out, owner, loop, times)

    def __len__(self) -> int:
        """Connections, including those of ended streams."""
        return len(self._subscribers)

    @property
    def lagging(self) -> LaggingFigures:
        """Visits every subscriber."""
        now = self._loop.time()
        behind: list[Subscriber] = []
        unanswered, since, longest = 0, now, None
        for subscriber in self._subscribers:
            lag = subscriber.lag
            if lag is None:
                continue
            if lag.unanswered:  # it lacks nothing
                unanswered += 1
                continue
            behind.append(subscriber)
            if lag.since < since or longest is None:
                since, longest = lag.since, subscriber
        if longest is None:
            return LaggingFigures(unanswered, 0, 0, 0.0)
        sizes = [one.unwritten_bytes() for one in behind[:: -(-len(behind) // MAX_MEASURED)]]
        total = sum(sizes) * len(behind) // len(sizes)
        most = max(*sizes, longest.unwritten_bytes())
        return LaggingFigures(unanswered + len(behind), total, most, now - since)

    @property
    def failure(self) -> Exception | None:
        """A defect in fan-out or a sweep, or None."""
        return self.fan_out.failure or self._sweeper.failure

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        """All subscribers, as a copy."""
        return tuple(self._subscribers)

    def visit(self) -> Iterator[Subscriber]:
        """All subscribers, downwards. They may change meanwhile: each that is there from the first to the last is visited, some twice, and some that come."""
        left = len(self._subscribers)
        while left := min(left, len(self._subscribers)):
            left -= 1
            yield self._subscribers[left]

    def sweep(self) -> None:
        """Begin a sweep; see `sweeper`."""
        self._sweeper.begin()

    def attach(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        key: FeedKey,
        logs: Sequence[Log],
        cursor: EventId,
        opening: bytes,
    ) -> Subscriber:
        """Make `caller` a subscriber at `cursor`, and write `opening`, as it is, and its first batch.

        `logs`, those of `key.topics`, must join on to `cursor` and `key.floors` at this moment.
        """
        now = self._loop.time()
        subscriber = Subscriber(transport, self, caller, cursor, now, chunked=key.chunked, silent=key.silent)
        subscriber.hub_index = len(self._subscribers)
        self._subscribers.append(subscriber)
        self.fan_out.catch_up.begin(subscriber, key, logs, opening, now)
        return subscriber

    def attach_poll(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        key: FeedKey,
        logs: Sequence[Log],
        cursor: EventId,
        responder: Responder,
    ) -> Poll:
        """Have `caller` wait for the first event after `cursor`, at which `logs`, those of `key.topics`, have nothing to give."""
        now = self._loop.time()
        poll = Poll(transport, self, caller, cursor, now, responder)
        poll.hub_index = len(self._subscribers)
        self._subscribers.append(poll)
        self.fan_out.catch_up.begin(poll, key, logs, b"", now)
        return poll

    def send_control(self, subscriber: Subscriber, event: bytes) -> None:
        """Write a control event without an id, unless the subscriber gets none. One that lags gets the latest as soon as it can be written to."""
        if subscriber.silent:
            return
        chunk = subscriber.encode(event)
        self.fan_out.sent.bytes += len(chunk)
        if subscriber.lag is None:
            subscriber.write(chunk, self._loop.time())
        else:
            subscriber.lag.control_event = chunk

    def finish(self, subscriber: Subscriber, reason: CloseReason, last: bytes = b"") -> None:
        """End the subscriber's stream with `last`; at a drain, maximum age or expiry, after everything it lacks."""
        now = self._loop.time()
        if reason in (CloseReason.DRAINING, CloseReason.MAX_AGE, CloseReason.EXPIRED):
            self.fan_out.bring_to_end(subscriber, now)
        self.fan_out.catch_up.release(subscriber)
        self.fan_out.sent.bytes += len(last)
        subscriber.finish(reason, last, now)

    def cut(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """End the subscriber's connection at once."""
        self.fan_out.catch_up.release(subscriber)
        subscriber.cut(reason)

    # Called by subscribers

    def flushed(self, subscriber: Subscriber) -> None:
        self.fan_out.catch_up.flushed(subscriber)

    def left(self, subscriber: Subscriber) -> None:
        self.finish(subscriber, CloseReason.CLIENT)

    def answered(self, poll: Poll) -> None:
        self._loop.call_soon(partial(self.finish, poll, CloseReason.ANSWERED))

    def lost(self, subscriber: Subscriber, reason: CloseReason) -> None:
        self.fan_out.catch_up.release(subscriber)
        last = self._subscribers.pop()
        if last is not subscriber:
            self._subscribers[subscriber.hub_index] = last
            last.hub_index = subscriber.hub_index
        subscriber.hub_index = -1
        self._owner.closed(subscriber, reason, self._loop.time() - subscriber.opened_at)
