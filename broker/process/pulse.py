"""Whether a worker hangs: it leaves a ping unanswered for too long.

Rules: no process and no clock; the caller passes the time.

Only time in which the supervisor itself ran counts. If the whole machine was suspended, or the supervisor stopped, the time
between two ticks is long, but the workers had no chance to answer: at most two periods of it count.
"""

from __future__ import annotations

MAX_PERIOD_SECONDS = 1.0
TICKS_PER_TIMEOUT = 5


class Pulse:
    """The pings of one worker.

    Args:
        timeout_seconds: how long a ping may stay unanswered.
        now: the time, in seconds.

    Attributes:
        period_seconds: the time from one call of `tick` to the next.
    """

    def __init__(self, timeout_seconds: float, now: float) -> None:
        self.period_seconds = min(MAX_PERIOD_SECONDS, timeout_seconds / TICKS_PER_TIMEOUT)
        self._timeout = timeout_seconds
        self._ticked_at = now
        self._unanswered_seconds = 0.0

    def tick(self, now: float, *, is_answered: bool) -> bool:
        """Returns whether the worker hangs. `is_answered` says whether the last ping was answered."""
        counted = min(now - self._ticked_at, 2 * self.period_seconds)
        self._ticked_at = now
        self._unanswered_seconds = 0.0 if is_answered else self._unanswered_seconds + counted
        return self._unanswered_seconds >= self._timeout
