"""Token buckets (RFC 2697's idea, with one rate), many of them: how much somebody may do in a second.

Rules: pure; the time comes from outside. Who is not in debt may do something, however large, and is in debt then until the
rate has paid for it: so an event that is larger than a second's share goes through now and then, and the average holds.
"""

from __future__ import annotations

from collections import OrderedDict

MOST = 100_000


class Buckets:
    """One bucket for each key; those that nobody used for longest are forgotten first, and a full one needs no memory.

    Args:
        rate: what flows in, in a second; also how much one holds.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, key: str, now: float) -> float:
        """Seconds until this one is out of debt; 0 where it may do something."""
        return max(0.0, -self._level(key, now) / self._rate)

    def take(self, key: str, amount: float, now: float) -> None:
        """It does something; `now` in seconds, and never less than before."""
        self._levels[key] = self._level(key, now) - amount, now
        self._levels.move_to_end(key)
        while self._levels and (len(self._levels) > MOST or self._is_full(now)):
            self._levels.popitem(last=False)

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (self._rate, now))
        return min(self._rate, level + (now - at) * self._rate)

    def _is_full(self, now: float) -> bool:
        """Whether the one that was used longest ago is as if it had never been."""
        oldest = next(iter(self._levels))
        return self._level(oldest, now) >= self._rate
