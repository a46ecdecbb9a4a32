"""How long to wait before what died is started again."""

from __future__ import annotations

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 30.0
STEADY_SECONDS = 10.0


class Restarts:
    """Not at all for what has lived a while; else twice as long each time, so that a defect is no loop that eats a core."""

    def __init__(self) -> None:
        self._next = 0.0

    def delay(self, lived_seconds: float) -> float:
        """Seconds to wait, given how long it has lived this time."""
        now = 0.0 if lived_seconds >= STEADY_SECONDS else self._next
        self._next = min(LONGEST_SECONDS, max(FIRST_SECONDS, 2 * now))
        return now
