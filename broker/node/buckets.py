"""Token buckets: rates, kept for each of many callers.

This is RFC 2697's idea, with one rate. A caller that isn't in debt may do something of any size, and is in debt until the
rate has paid for it. So an event larger than a second's share goes through now and then, and the average holds.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_BUCKETS = 100_000
MAX_DEBT_SECONDS = 60.0
"""The longest debt. All callers that share an address or a subject with a careless publisher wait for its debt too. Only a
single large event is charged less than it costs: streamed bodies are split, and larger publishes refused."""


class TokenBuckets:
    """A bucket for each key. Full buckets need no memory; over `MAX_BUCKETS` the least recently used is forgotten.

    Args:
        rate: the inflow of each bucket in a second, and its capacity.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, key: str, now: float) -> float:
        """Seconds until `key` is out of debt; 0 if it isn't in debt. `now` is in seconds."""
        return max(0.0, -self._level(key, now) / self._rate)

    def take(self, key: str, amount: float, now: float) -> None:
        """Take `amount` out of the bucket of `key`; a negative amount is given back. `now` never decreases."""
        level = max(self._level(key, now) - amount, -self._rate * MAX_DEBT_SECONDS)
        self._levels[key] = level, now
        self._levels.move_to_end(key)
        while self._levels and (len(self._levels) > MAX_BUCKETS or self._is_oldest_full(now)):
            self._levels.popitem(last=False)

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (self._rate, now))
        return min(self._rate, level + (now - at) * self._rate)

    def _is_oldest_full(self, now: float) -> bool:
        oldest = next(iter(self._levels))
        return self._level(oldest, now) >= self._rate
