"""How long to wait before the next attempt.

Rules: no clock, no sleeping. The first wait is what the broker asked for; it chose that at random, so that those it cut
together don't come back together. While attempts fail, the waits are drawn from a range that doubles up to a bound.
"""

from __future__ import annotations

import random

LEAST_STEP_SECONDS = 0.1


class Backoff:
    """The waits between attempts of one client.

    Args:
        seconds: the first wait; `asked_for` changes it.
        max_seconds: no wait is longer, whatever the broker asks for.
    """

    def __init__(self, seconds: float, max_seconds: float) -> None:
        self._first = min(seconds, max_seconds)
        self._max = max_seconds
        self._failures = 0

    @property
    def first(self) -> float:
        """Seconds of the wait after a success."""
        return self._first

    def ask(self, seconds: float) -> None:
        """The broker asks for another first wait (`retry:`)."""
        self._first = min(seconds, self._max)

    def reset(self) -> None:
        """An attempt succeeded."""
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait after a failure; at least `retry_after`, a bit more so that not all come at that moment."""
        high = min(self._max, max(self._first, LEAST_STEP_SECONDS) * 2.0 ** min(self._failures, 30))
        seconds = random.uniform(self._first, high) if self._failures else self._first
        self._failures += 1
        if retry_after is not None:
            seconds = max(seconds, retry_after * random.uniform(1, 1.25))
        return min(seconds, self._max)
