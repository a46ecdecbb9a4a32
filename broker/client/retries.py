"""When a failed request is repeated.

Rules: no clock and no waiting; the caller has both.
"""

from __future__ import annotations

from broker.backoff import Backoff
from broker.client.errors import PublishError

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0


class Retries:
    """The waits before the repetitions of one request, within `patience_seconds`; 0 never repeats.

    Args:
        now: the time at which the request starts, in seconds of the caller's clock.
    """

    def __init__(self, patience_seconds: float, now: float) -> None:
        self._patience_seconds = patience_seconds
        self._backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        self.restart(now)

    def restart(self, now: float) -> None:
        """Start the `patience_seconds` again, because there was progress."""
        self._backoff.reset()
        self._deadline = now + self._patience_seconds

    def wait_seconds(self, error: PublishError, now: float) -> float:
        """The seconds until the next attempt. Raises `error` if that would be too late."""
        seconds = max(self._backoff.next(), error.retry_after or 0)
        if now + seconds > self._deadline:
            raise error
        return seconds
