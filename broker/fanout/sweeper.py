"""The walk over all subscribers: heartbeats to the silent, the end for those who are stuck, or old.

Rules: one timer for all (design §1), cut into slices like fan-out.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence

from broker import sse
from broker.fanout.subscriber import CloseReason, Lag, Subscriber

SLICE_VISITS = 4000
YOUNG = 0.8  # up to this part of the greatest age a connection isn't old
SLICE_CALLS = 200  # system calls; about 2 ms

_logger = logging.getLogger("broker")


class Sweeper:
    """See the module.

    Args:
        seats: everybody; who leaves is replaced by the last of them, so a walk downwards skips nobody.
        call_soon: schedules a callable for the loop's next turn.
        monotonic: the loop's time in seconds.
        on_stuck: called with a subscriber whose other side takes nothing any more, and why it is to be closed.
        on_answered: called with one that is there again, and up to date but for what came meanwhile.
        on_aged: called with one that has been connected for long enough.
        heartbeat_seconds: silence after which a comment is written.
        slow_seconds: how long a lagging subscriber may take nothing.
        max_age_seconds: how old a connection gets at most; 0 for no bound. Each ends somewhere in the last fifth of it, as
            likely in one moment as in another, so that those who came together don't come back together.

    Attributes:
        failure: the last defect that the walk met.
    """

    def __init__(
        self,
        seats: Sequence[Subscriber],
        *,
        call_soon: Callable[[Callable[[], None]], object],
        monotonic: Callable[[], float],
        on_stuck: Callable[[Subscriber, CloseReason], None],
        on_answered: Callable[[Subscriber], None],
        on_aged: Callable[[Subscriber], None],
        heartbeat_seconds: float,
        slow_seconds: float,
        max_age_seconds: float,
    ) -> None:
        self._seats = seats
        self._call_soon = call_soon
        self._monotonic = monotonic
        self._on_stuck = on_stuck
        self._on_answered = on_answered
        self._heartbeat_seconds = heartbeat_seconds
        self._slow_seconds = slow_seconds
        self._on_aged = on_aged
        self._max_age_seconds = max_age_seconds or math.inf
        self._began_at = self._period = 0.0
        self._unvisited: int | None = None
        self.failure: Exception | None = None

    def begin(self) -> None:
        """Look at everybody once, from now on; nothing while the walk before is underway."""
        if self._unvisited is None:
            now = self._monotonic()
            self._began_at, self._period = now, now - self._began_at
            self._unvisited = len(self._seats)
            self._slice()

    def _slice(self) -> None:
        assert self._unvisited is not None
        now = self._monotonic()
        left = min(self._unvisited, len(self._seats))
        stop_at, calls = left - SLICE_VISITS, 0
        while left > 0 and left > stop_at and calls < SLICE_CALLS:
            left -= 1
            try:
                calls += self._look_at(self._seats[left], now)
            except Exception as failure:  # a defect with one connection is not everybody's (I9)
                _logger.exception("the walk met a defect; this instance is not ready any more")
                self.failure = failure
        self._unvisited = left or None
        if left:
            self._call_soon(self._slice)

    def _look_at(self, subscriber: Subscriber, now: float) -> bool:
        """Whether it cost a system call."""
        lag = subscriber.lag
        if now - subscriber.since > self._max_age_seconds * YOUNG and subscriber.feed is not None:
            left = self._max_age_seconds - (now - subscriber.since)
            if random.random() * left < self._period:  # which makes all moments of that time alike
                self._on_aged(subscriber)
                return True
        if lag is None:
            return self._look_at_silent(subscriber, now)
        if subscriber.is_stuck(now, self._slow_seconds):
            self._on_stuck(subscriber, CloseReason.TIMEOUT if lag.unanswered else CloseReason.SLOW)
        elif lag.pending == 0 and subscriber.feed is None:
            subscriber.close()  # it is on its way out, and has all that was written
        elif lag.pending == 0 and lag.unanswered:
            lag.unanswered = False
            self._on_answered(subscriber)
        return True

    def _look_at_silent(self, subscriber: Subscriber, now: float) -> bool:
        if now - subscriber.wrote_at < self._heartbeat_seconds or subscriber.feed is None:
            return False
        if subscriber.is_acknowledged():
            subscriber.write(sse.HEARTBEAT, now)
        else:
            subscriber.lag = Lag(now, unanswered=True)
        return True
