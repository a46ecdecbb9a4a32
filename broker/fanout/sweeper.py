"""The sweep over all subscribers: heartbeats to silent ones, the end for those that are stuck or too old.

Rules: one timer for all (design §1); a sweep is cut into parts like fan-out.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence

from broker import sse
from broker.fanout.chunks import HEARTBEAT_CHUNK
from broker.fanout.close_reason import CloseReason
from broker.fanout.fanout import FanOut
from broker.fanout.lag import Lag
from broker.fanout.owner import HubOwner, Scheduler, StreamTimes
from broker.fanout.subscriber import Subscriber

VISITS_PER_TURN = 4000
CALLS_PER_TURN = 200  # system calls; about 2 ms
QUIET_SECONDS = 600.0  # then even a quiet stream gets a heartbeat, by which a client that is gone is noticed
YOUNG = 0.8  # below this part of the maximum age no stream is closed for its age

_logger = logging.getLogger("broker")


class Sweeper:
    """Visits `subscribers`, the hub's own list. When one leaves, the last one takes its place.

    Attributes:
        failure: the last defect that a sweep met.
    """

    def __init__(
        self,
        subscribers: Sequence[Subscriber],
        fan_out: FanOut,
        owner: HubOwner,
        loop: Scheduler,
        times: StreamTimes,
    ) -> None:
        self.failure: Exception | None = None
        self._subscribers = subscribers
        self._fan_out = fan_out
        self._owner = owner
        self._loop = loop
        self._times = times
        self._max_age_seconds = times.max_age_seconds or math.inf
        self._began_at = self._period = 0.0
        self._unvisited: int | None = None

    def begin(self) -> None:
        """Visit every subscriber once, downwards, so that none is skipped. Does nothing during a sweep."""
        if self._unvisited is None:
            now = self._loop.time()
            self._began_at, self._period = now, now - self._began_at
            self._unvisited = len(self._subscribers)
            self._go_on()

    def _go_on(self) -> None:
        assert self._unvisited is not None
        now = self._loop.time()
        left = min(self._unvisited, len(self._subscribers))
        stop_at, calls = left - VISITS_PER_TURN, 0
        while left > 0 and left > stop_at and calls < CALLS_PER_TURN:
            left -= 1
            try:
                calls += self._visit(self._subscribers[left], now)
            except Exception as failure:  # a defect with one connection must not reach the others (I9)
                _logger.exception("the sweep met a defect; this instance is no longer ready")
                self.failure = failure
        self._unvisited = left or None
        if left:
            self._loop.call_soon(self._go_on)

    def _visit(self, subscriber: Subscriber, now: float) -> bool:
        """Check one subscriber. Returns whether that cost a system call."""
        if subscriber.feed is not None and self._is_to_age(subscriber, now):
            self._owner.aged(subscriber)
            return True
        if subscriber.lag is None:
            return self._visit_up_to_date(subscriber, now)
        self._visit_lagging(subscriber, subscriber.lag, now)
        return True

    def _is_to_age(self, subscriber: Subscriber, now: float) -> bool:
        """Whether to close `subscriber` now. All moments between `YOUNG` and the maximum age are equally likely."""
        age = now - subscriber.opened_at
        if age <= self._max_age_seconds * YOUNG:
            return False
        return random.random() * (self._max_age_seconds - age) < self._period

    def _visit_lagging(self, subscriber: Subscriber, lag: Lag, now: float) -> None:
        if subscriber.is_stuck(now, self._times.slow_seconds):
            self._fan_out.catch_up.release(subscriber)
            subscriber.cut(CloseReason.TIMEOUT if lag.unanswered else CloseReason.SLOW)
        elif lag.pending == 0 and subscriber.feed is None:
            subscriber.close()  # its stream has ended, and it has everything
        elif lag.pending == 0 and lag.unanswered:
            lag.unanswered = False
            self._fan_out.catch_up.flushed(subscriber)

    def _visit_up_to_date(self, subscriber: Subscriber, now: float) -> bool:
        silence = now - subscriber.wrote_at
        if silence < self._times.heartbeat_seconds or subscriber.feed is None:
            return False
        if subscriber.quiet and silence < QUIET_SECONDS:
            return False
        if subscriber.is_acknowledged():
            heartbeat = HEARTBEAT_CHUNK if subscriber.chunked else sse.HEARTBEAT
            subscriber.write(heartbeat, now)
            self._fan_out.sent.bytes += len(heartbeat)
        else:
            subscriber.lag = Lag(now, unanswered=True)
        return True
