"""The open streams of an instance: how they begin, and how they end.

Rules: no HTTP, no concrete store. The hub writes the events in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from broker import sse
from broker.auth.grants import Caller
from broker.errors import Draining, Overloaded
from broker.events import Clock
from broker.fanout.batches import BatchRunner
from broker.fanout.chunks import as_chunk
from broker.fanout.close_reason import CloseReason
from broker.fanout.feed import FeedKey
from broker.fanout.hub import Hub
from broker.fanout.origin import UNKNOWN_CLIENT, Client
from broker.fanout.owner import StreamTimes
from broker.fanout.poll import Responder
from broker.fanout.subscriber import Subscriber
from broker.log.log import Log
from broker.log.start import (
    After,
    Last,
    Latest,
    Malformed,
    Since,
    Start,
    cursor_text,
    has_seen_all,
    position,
)
from broker.metrics import Metrics
from broker.node.evictions import Evictions
from broker.node.history import Gap, Reading
from broker.node.limits import RateLimits
from broker.node.stream_reports import describe, report_closed, report_gap
from broker.reports import Reporter
from broker.stores.base import WatchedLogs

DRAIN_SWEEP_SECONDS = 0.05
DRAIN_SPREAD = 0.8  # the part of `drain_seconds` over which streams end
LONG_RETRY_MS = (10_000, 30_000)
_CURSORS = (After, Malformed)
_START_NAMES = {Latest: "live", After: "cursor", Malformed: "cursor", Since: "since", Last: "last"}


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """The settings of the same names."""

    max_connections: int
    heartbeat_seconds: float
    slow_seconds: float
    retry_min_ms: int
    retry_max_ms: int
    drain_notice_seconds: float
    drain_seconds: float
    max_age_seconds: float
    revocation_seconds: float


class Streams:
    """The owner of the hub.

    Args:
        clock: seconds since 1970.
        limits: `leave` is called for each closed stream.

    Attributes:
        is_draining: whether this instance shuts down; then it takes no new streams.
        max_connections: how many there may be.
        written: see `HubOwner`.
    """

    def __init__(
        self,
        logs: WatchedLogs,
        policy: StreamPolicy,
        limits: RateLimits,
        metrics: Metrics,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.is_draining = False
        self.max_connections = policy.max_connections
        self.written = metrics.written
        self.hub = Hub(
            self,
            logs,
            loop,
            StreamTimes(policy.heartbeat_seconds, policy.slow_seconds, policy.max_age_seconds),
        )
        self.batches = BatchRunner(loop)
        self.evictions = Evictions(self, self.batches, clock, loop)
        self._logs = logs
        self._policy = policy
        self._limits = limits
        self._metrics, self._connects = metrics, metrics.connects.values
        self._reporter = reporter
        metrics.closes.declare(CloseReason)
        self._loop = loop
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self.hub)

    # Beginning

    def check_room(self) -> None:
        """Raises `Overloaded` or `Draining` if no further stream is taken."""
        if self.is_draining:
            raise Draining("This instance is shutting down; come back in a moment.", retry_after=2)
        if len(self.hub) >= self.max_connections:
            raise Overloaded("All connections are taken; come back later.", retry_after=random.randint(5, 15))

    def has_seen_all(self, logs: Sequence[Log], start: Start) -> bool:
        """Whether all topics of `logs` are closed, and `start` is after their ends. Don't await between this and `attach`."""
        return has_seen_all(start, logs, self._logs)

    def gaps(self, topics: Sequence[str], logs: Sequence[Log], start: Start) -> Sequence[Gap]:
        """The gaps of a stream that begins now at `start`, a cursor, in all that it would replay; of each topic the first."""
        where = position(start, topics, logs, self._logs)
        after = cursor_text(start)
        gaps = [Gap(*gap) for gap in zip(where.gap_topics, repeat(after), where.gaps, strict=False)]
        if isinstance(start, After):
            left_out = {*topics} - {*where.topics}
            for topic, log in zip(topics, logs, strict=True):
                if log.gap_entries and topic not in left_out and topic not in where.gap_topics:
                    entries = log.after(max(start.cursor, log.cleared_at))
                    gaps += [Gap(topic, after, entry.gap) for entry in entries if entry.gap is not None][:1]
        for gap in gaps:
            self.gap_sent((gap.topic,), gap.reason, 1)
        if gaps:
            self._metrics.resumes.add(gaps[0].reason)
        return gaps

    def attach(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        head: bytes,
        topics: Sequence[str],
        logs: Sequence[Log],
        start: Start,
        *,
        enveloped: bool,
        chunked: bool,
        silent: bool = False,
        quiet: bool = False,
        client: Client = UNKNOWN_CLIENT,
    ) -> Subscriber:
        """Make the connection behind `transport` a subscriber; `head` is written before everything else.

        With `chunked` everything after the head is written as chunks (HTTP/1.1). A `silent` stream gets no control events; its
        `start` has no gap (`gaps`). A `quiet` one gets no heartbeats.

        `logs` are what `watch` returned for `topics` and `start`, without an `await` since. From here on the watches belong to
        the subscriber, and so does the caller's place in the limits.
        """
        where = position(start, topics, logs, self._logs)
        self._count_opened(where.gaps, resumed=isinstance(start, _CURSORS))
        gap = where.gaps[0] if where.gaps else ""
        if gap:
            for topic, reason in zip(where.gap_topics, where.gaps, strict=True):
                self.gap_sent((topic,), reason, 1)
        opening = b"retry: %d\n:\n%b" % (self.retry_ms(), b"" if silent else where.preface)
        opening = head + (as_chunk(opening) if chunked else opening)
        key = FeedKey(where.topics, enveloped, where.floors, chunked, silent)
        left_out: list[str] = []
        if len(where.topics) != len(topics):
            left_out = [topic for topic in topics if topic not in where.topics]
            logs = [log for topic, log in zip(topics, logs, strict=True) if topic in where.topics]
        subscriber = self.hub.attach(transport, caller, key, logs, where.cursor, opening)
        subscriber.quiet = quiet
        subscriber.own_bytes -= len(opening)  # so that an idle stream keeps the shared number 0
        if not where.topics:
            subscriber.topics = tuple(topics)
        describe(subscriber, client, _START_NAMES[type(start)], gap)
        if left_out:
            self._logs.unwatch(left_out)
        self.evictions.opened(subscriber)
        return subscriber

    def attach_poll(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        reading: Reading,
        seconds: float,
        responder: Responder,
        client: Client = UNKNOWN_CLIENT,
    ) -> None:
        """Make the connection behind `transport` a long poll, which gets its whole answer from `responder`, after `seconds` at most.

        `reading` has nothing to give, and an open topic; don't await between its `watch` and this. From here on the watches
        belong to the poll, and so does the caller's place in the limits.
        """
        self._count_opened((), resumed=reading.resumes)
        topics, logs = reading.open_topics()
        key = FeedKey(
            topics, enveloped=False, chunked=True
        )  # the feed of most streams: its pieces are made anyway
        poll = self.hub.attach_poll(transport, caller, key, logs, reading.end(), responder)
        describe(poll, client, "poll", "")
        self._logs.unwatch([topic for topic in reading.topics if topic not in topics])
        poll.timer = self._loop.call_later(seconds, self.end, poll, CloseReason.ANSWERED)
        self.evictions.opened(poll)

    def _count_opened(self, gaps: Sequence[str], *, resumed: bool) -> None:
        """A stream has begun, with these reasons of gaps; `resumed` if with a cursor."""
        self._connects["resume" if resumed else "first"] += 1
        if resumed:
            self._metrics.resumes.add(gaps[0] if gaps else "whole")

    def retry_ms(self) -> int:
        """A reconnect delay, random so that clients which were cut together don't reconnect together."""
        lowest, most = self._policy.retry_min_ms, self._policy.retry_max_ms
        return lowest + int(random.random() * (most - lowest + 1))

    @staticmethod
    def long_retry_ms() -> int:
        """A reconnect delay for clients that were refused."""
        return random.randint(*LONG_RETRY_MS)

    # Ending

    def end(
        self, subscriber: Subscriber, reason: CloseReason, farewell: bytes = b"", wait_seconds: float = 0.0
    ) -> None:
        """End a stream with `farewell`, and ask its client to reconnect after at least `wait_seconds`.

        A silent one gets neither: they would be a block without data.
        """
        if subscriber.silent:
            self.hub.finish(subscriber, reason)
            return
        delay_ms = int(wait_seconds * 1000) + self.retry_ms()
        self.hub.finish(subscriber, reason, farewell + sse.retry(delay_ms))

    def cut(self) -> None:
        """Cut every stream. Publishers no longer wait for any of them."""
        for subscriber in self.hub.subscribers:
            self.hub.cut(subscriber, CloseReason.DRAINING)

    async def drain(self) -> None:
        """End all streams, spread over `drain_seconds`, each with a `retry:` of its own (I8); publishes go on.

        Readiness fails first, for `drain_notice_seconds`.
        """
        self.is_draining = True
        await asyncio.sleep(self._policy.drain_notice_seconds)
        began_at, seconds = self._loop.time(), self._policy.drain_seconds
        subscribers = list(self.hub.subscribers)
        random.shuffle(subscribers)
        for index, subscriber in enumerate(subscribers):
            due = began_at + seconds * DRAIN_SPREAD * index / len(subscribers)
            await self._emptied_by(due)
            if subscriber.hub_index >= 0:
                self.end(subscriber, CloseReason.DRAINING)
        while len(self.hub) and self._loop.time() < began_at + seconds:
            self.hub.sweep()  # closes connections that have everything
            await self._emptied_by(self._loop.time() + DRAIN_SWEEP_SECONDS)

    async def _emptied_by(self, moment: float) -> None:
        """Return at `moment` (loop time), or as soon as no stream is left."""
        if moment > self._loop.time() and len(self.hub):
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(moment):
                    await self._emptied.wait()

    # Called by the hub

    def closed(self, subscriber: Subscriber, reason: CloseReason, age: float) -> None:
        self.evictions.closed(subscriber)
        self._limits.leave(subscriber.caller)
        self._metrics.closes.add(reason)
        self._metrics.age.observe(age)
        report_closed(self._reporter, subscriber, reason, age)
        if not len(self.hub):
            self._emptied.set()

    def gap_sent(self, topics: Sequence[str], reason: str, subscribers: int) -> None:
        self._metrics.gaps.add(reason, subscribers)
        report_gap(self._reporter, topics, reason, subscribers)

    def replayed(self, seconds: float) -> None:
        self._metrics.replay.observe(seconds)

    def aged(self, subscriber: Subscriber) -> None:
        self.end(subscriber, CloseReason.MAX_AGE)
