"""Idempotency keys in memory.

Rules: values; times come in, in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import RateLimited
from broker.events import EventId

KEY_OVERHEAD_BYTES = 250  # memory of a key without its text, measured
KEYS_PER_SWEEP = 500  # about 0.5 ms


class IdempotencyKeys:
    """The id that each key got in each topic, oldest first; at most `max_bytes` of memory (I4)."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._ids: dict[tuple[str, str], tuple[EventId, float]] = {}

    def get(self, topic: str, key: str, now: float) -> EventId | None:
        self.sweep(now)
        found = self._ids.get((topic, key))
        return None if found is None or self._is_over(found[1], now) else found[0]

    def check_room(self, topics: Sequence[str], key: str) -> None:
        """Raises `RateLimited` if `key` can't be remembered for all of `topics`."""
        if self._bytes + sum(_key_bytes(topic, key) for topic in topics) > self._max_bytes:
            raise keys_full(self._seconds)

    def put(self, topic: str, key: str, event_id: EventId, now: float) -> None:
        self._forget(topic, key)
        self._ids[topic, key] = event_id, now
        self._bytes += _key_bytes(topic, key)

    def sweep(self, now: float) -> None:
        """Forget some of the keys that are too old: after a pause of the process, that may be all at once."""
        for _ in range(KEYS_PER_SWEEP):
            if not self._ids:
                return
            (topic, key), (_, since) = next(iter(self._ids.items()))
            if not self._is_over(since, now):
                return
            self._forget(topic, key)

    def _is_over(self, since: float, now: float) -> bool:
        """Whether a key is too old, or lies far in the future because the clock stepped back."""
        return abs(now - since) >= self._seconds

    def _forget(self, topic: str, key: str) -> None:
        if self._ids.pop((topic, key), None) is not None:
            self._bytes -= _key_bytes(topic, key)


def _key_bytes(topic: str, key: str) -> int:
    return len(topic) + len(key) + KEY_OVERHEAD_BYTES


def keys_full(idempotency_seconds: float) -> RateLimited:
    """The refusal of a publish with a key if too many keys are remembered."""
    return RateLimited(
        "Too many idempotency keys are remembered; try again later, or publish without a key.",
        retry_after=max(1, int(idempotency_seconds / 10)),
    )
