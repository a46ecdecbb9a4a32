"""Leases in memory: topics that close unless their lease is renewed in time.

Rules: values; times come in, in seconds since 1970. At most `MAX_LEASES` (I4).
"""

from __future__ import annotations

from collections.abc import Sequence

from sortedcontainers import SortedList

from broker.errors import RateLimited

MAX_LEASES = 100_000
RETRY_AFTER_SECONDS = 10


class Leases:
    """When the lease of each topic expires."""

    def __init__(self, max_leases: int = MAX_LEASES) -> None:
        self._max_leases = max_leases
        self._until: dict[str, float] = {}
        self._order: SortedList[tuple[float, str]] = SortedList()  # the earliest first

    def take(self, topic: str, until: float) -> None:
        """Take or renew a lease; the longest counts. Raises `RateLimited` if there are too many."""
        if topic not in self._until and len(self._until) >= self._max_leases:
            raise leases_full()
        former = self._until.get(topic)
        if former is not None and former >= until:
            return
        self.drop(topic)
        self._until[topic] = until
        self._order.add((until, topic))

    def drop(self, topic: str) -> None:
        until = self._until.pop(topic, None)
        if until is not None:
            self._order.remove((until, topic))

    def until(self, topic: str) -> float | None:
        """When the topic's lease expires; None without one."""
        return self._until.get(topic)

    def expired(self, now: float, most: int) -> Sequence[str]:
        """Drop at most so many expired leases, the earliest first, and return their topics."""
        topics: list[str] = []
        while self._order and self._order[0][0] <= now and len(topics) < most:
            _, topic = self._order.pop(0)
            del self._until[topic]
            topics.append(topic)
        return topics


def leases_full() -> RateLimited:
    """The refusal of a lease when there are too many."""
    return RateLimited(
        "Too many topics use end=on-disconnect; try again later, or publish without it.",
        retry_after=RETRY_AFTER_SECONDS,
    )
