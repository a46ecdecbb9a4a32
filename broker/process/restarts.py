"""How long to wait before a process that ended is restarted."""

from __future__ import annotations

FIRST_SECONDS = 0.25
MAX_SECONDS = 30.0
STABLE_SECONDS = 10.0
"""A process that ran for so long is restarted at once."""


class RestartDelay:
    """The delays of one process: none at first, then 0.25 seconds, doubling up to 30 while it keeps ending early.

    Without them, a process that can't start would use a whole core.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def next(self, uptime_seconds: float) -> float:
        """The seconds to wait, after the process ran for `uptime_seconds`."""
        delay = 0.0 if uptime_seconds >= STABLE_SECONDS else self._next
        self._next = min(MAX_SECONDS, max(FIRST_SECONDS, 2 * delay))
        return delay
