"""Leases in memory: topics that end unless somebody speaks for them in time.

Rules: values; the clock's time comes in. At most `MOST_LEASES` (I4).
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import RateLimited

MOST_LEASES = 100_000
RETRY_AFTER_SECONDS = 10


class Leases:
    """By topic, until when (seconds since 1970)."""

    def __init__(self, most: int = MOST_LEASES) -> None:
        self._most = most
        self._until: dict[str, float] = {}

    def take(self, topic: str, until: float) -> None:
        """The longest lease of a topic counts. Raises `RateLimited` where there is no room for another topic."""
        if topic not in self._until and len(self._until) >= self._most:
            raise no_room()
        self._until[topic] = max(until, self._until.get(topic, 0.0))

    def drop(self, topic: str) -> None:
        """Nobody needs to speak for `topic`."""
        self._until.pop(topic, None)

    def due(self, now: float) -> Sequence[str]:
        """Topics whose time is over; they have no lease any more."""
        due = [topic for topic, until in self._until.items() if until <= now]
        for topic in due:
            del self._until[topic]
        return due


def no_room() -> RateLimited:
    return RateLimited(
        "Too many topics are to end when their publisher leaves; try again later, or leave that out.",
        retry_after=RETRY_AFTER_SECONDS,
    )
