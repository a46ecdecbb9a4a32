"""Exponential back-off: how long to wait before the next attempt, or before a restart. The caller waits."""

from __future__ import annotations

import random

MIN_STEP_SECONDS = 0.1
FIRST_RESTART_SECONDS = 0.25
MAX_RESTART_SECONDS = 30.0
STABLE_SECONDS = 10.0


class Backoff:
    """The waits between the attempts of one caller.

    The first wait after a success is fixed. Further waits are random, between the first wait and a limit that doubles with
    each failure.

    Args:
        max_seconds: the longest wait, whatever `set_first` and `retry_after` ask for.
    """

    def __init__(self, first_seconds: float, max_seconds: float) -> None:
        self._first = min(first_seconds, max_seconds)
        self._max = max_seconds
        self._failures = 0

    @property
    def first(self) -> float:
        """The first wait, in seconds."""
        return self._first

    def set_first(self, seconds: float) -> None:
        """Change the first wait, because the server sent `retry:`."""
        self._first = min(seconds, self._max)

    def reset(self) -> None:
        """An attempt succeeded: start again with the first wait."""
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """The seconds to wait after a failure.

        At least `retry_after`, plus up to a quarter of it, so that clients do not return together.
        """
        high = min(self._max, max(self._first, MIN_STEP_SECONDS) * 2.0 ** min(self._failures, 30))
        seconds = random.uniform(self._first, high) if self._failures else self._first
        self._failures += 1
        if retry_after is not None:
            seconds = max(seconds, retry_after * random.uniform(1, 1.25))
        return min(seconds, self._max)


class RestartBackoff:
    """Computes the waits before one process is restarted.

    A process that ran for at least `STABLE_SECONDS` is restarted at once, and so is the first that ended earlier. Then the
    wait doubles from 0.25 to 30 seconds, so that a process that can't start doesn't use a whole core.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def next(self, uptime_seconds: float) -> float:
        """The seconds to wait, given how long the process ran."""
        wait = 0.0 if uptime_seconds >= STABLE_SECONDS else self._next
        self._next = min(MAX_RESTART_SECONDS, max(FIRST_RESTART_SECONDS, 2 * wait))
        return wait
