"""Leases in memory: topics that close unless their lease is renewed in time.

Rules: values; times come in, in seconds since 1970. At most `MAX_LEASES` (I4).
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import RateLimited

MAX_LEASES = 100_000
RETRY_AFTER_SECONDS = 10


class Leases:
    """When the lease of each topic expires."""

    def __init__(self, max_leases: int = MAX_LEASES) -> None:
        self._max_leases = max_leases
        self._until: dict[str, float] = {}

    def take(self, topic: str, until: float) -> None:
        """Take or renew a lease; the longest counts. Raises `RateLimited` if there are too many."""
        if topic not in self._until and len(self._until) >= self._max_leases:
            raise leases_full()
        self._until[topic] = max(until, self._until.get(topic, 0.0))

    def drop(self, topic: str) -> None:
        self._until.pop(topic, None)

    def until(self, topic: str) -> float | None:
        """When the topic's lease expires; None without one."""
        return self._until.get(topic)

    def expired(self, now: float) -> Sequence[str]:
        """Drop the expired leases, and return their topics."""
        expired = [topic for topic, until in self._until.items() if until <= now]
        for topic in expired:
            del self._until[topic]
        return expired


def leases_full() -> RateLimited:
    """The refusal of a lease when there are too many."""
    return RateLimited(
        "Too many topics use end=on-disconnect; try again later, or publish without it.",
        retry_after=RETRY_AFTER_SECONDS,
    )
