"""Idempotency keys in memory.

Rules: values; the clock's time comes in.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import RateLimited
from broker.events import EventId

KEY_OVERHEAD_BYTES = 250  # what Python needs for a remembered key beside its text, measured


class IdempotencyKeys:
    """Idempotency keys by topic, with the id that each brought; the oldest first, within a bound of bytes."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._ids: dict[tuple[str, str], tuple[EventId, float]] = {}

    def get(self, topic: str, key: str, now: float) -> EventId | None:
        self.sweep(now)
        known = self._ids.get((topic, key))
        return None if known is None else known[0]

    def check_room(self, topics: Sequence[str], key: str) -> None:
        if self._bytes + sum(_key_bytes(topic, key) for topic in topics) > self._max_bytes:
            raise RateLimited(
                "Too many idempotency keys are remembered; try again later, or publish without a key.",
                retry_after=max(1, int(self._seconds / 10)),
            )

    def put(self, topic: str, key: str, event_id: EventId, now: float) -> None:
        self._ids[topic, key] = event_id, now
        self._bytes += _key_bytes(topic, key)

    def sweep(self, now: float) -> None:
        """Forget keys that are old enough, and those that a clock which stepped back left far in the future."""
        while self._ids:
            (topic, key), (_, since) = next(iter(self._ids.items()))
            if abs(now - since) < self._seconds:
                return
            del self._ids[topic, key]
            self._bytes -= _key_bytes(topic, key)


def _key_bytes(topic: str, key: str) -> int:
    return len(topic) + len(key) + KEY_OVERHEAD_BYTES
