"""Who is let in, and how much each may do: the limits by address, by subject and by time.

Rules: numbers and names; what a refusal looks like is the web layer's. A limit that isn't set costs nothing. How many
connections an address or a subject has is known exactly for this instance, and for the others as of at most 2 s ago.

Token buckets (RFC 2697's idea, with one rate), many of them: how much somebody may do in a second.

Rules: pure; the time comes from outside. Who is not in debt may do something, however large, and is in debt then until the
rate has paid for it: so an event that is larger than a second's share goes through now and then, and the average holds.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.auth.grants import Caller
from broker.errors import RateLimited
from broker.stores.base import Counters

MOST = 100_000


class TokenBuckets:
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


ALL = ""
"""The key of what is counted for everybody together."""
CONNECTIONS_RETRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """The settings of the same names; 0 is no limit."""

    max_connections_per_address: int = 0
    max_connections_per_subject: int = 0
    max_connects_per_second: float = 0
    max_publishes_per_second: float = 0
    max_publish_bytes_per_second: float = 0


class RateLimits:
    """See the module.

    Args:
        monotonic: seconds.
    """

    def __init__(
        self, allowances: RateLimitSettings, counters: Counters, monotonic: Callable[[], float]
    ) -> None:
        self._allowances = allowances
        self._counters = counters
        self._monotonic = monotonic
        self._held: Counter[str] = Counter()
        self._connects = _buckets(allowances.max_connects_per_second)
        self._publishes = _buckets(allowances.max_publishes_per_second)
        self._bytes = _buckets(allowances.max_publish_bytes_per_second)

    # Streams

    async def enter(self, caller: Caller) -> None:
        """Let `caller` have one more stream, which `leave` gives back.

        Raises:
            RateLimited: it has as many as it may, or too many come at once; `limit` says which.
            Unavailable: the store can't tell how many there are elsewhere.
        """
        if self._connects is not None:
            now = self._monotonic()
            wait = self._connects.wait(ALL, now)
            if wait:
                raise _limited("max_connects_per_second", "Too many streams are opened at once", wait)
            self._connects.take(ALL, 1, now)
        holders = self._holders(caller)
        if holders:
            names = [name for name, _, _ in holders]
            elsewhere = await self._counters.counts_elsewhere(names)
            for (name, limit, setting), count in zip(holders, elsewhere, strict=True):
                if self._held[name] + count >= limit:
                    what = "address" if setting.endswith("address") else "subject"
                    raise _limited(
                        setting,
                        f"This {what} has {limit} streams open, and no more",
                        CONNECTIONS_RETRY_SECONDS,
                    )
            for name in names:
                self._hold(name, 1)

    def leave(self, caller: Caller) -> None:
        """Give back what `enter` gave."""
        for name, _, _ in self._holders(caller):
            self._hold(name, -1)

    def _hold(self, name: str, change: int) -> None:
        self._held[name] += change
        self._counters.set_count(name, self._held[name])
        if not self._held[name]:
            del self._held[name]

    def _holders(self, caller: Caller) -> Sequence[tuple[str, int, str]]:
        """Under which names it is counted, up to how many, and by which setting."""
        allowances = self._allowances
        found = []
        if allowances.max_connections_per_address and caller.address:
            limit = allowances.max_connections_per_address
            found.append((f"address {caller.address}", limit, "max_connections_per_address"))
        if allowances.max_connections_per_subject and caller.grant.subject is not None:
            limit = allowances.max_connections_per_subject
            found.append((f"subject {caller.grant.subject}", limit, "max_connections_per_subject"))
        return found

    # Publishing

    def check_publish(self, caller: Caller, events: int, size: int) -> None:
        """Count `events` of `size` bytes in all. Raises `RateLimited` where that is too much; then nothing is counted."""
        wait, setting = self._wait(caller)
        if wait:
            raise _limited(setting, "You publish faster than you may", wait)
        self._count(caller, events, size)

    def slow_down(self, caller: Caller, events: int, size: int) -> float:
        """Count what was taken out of a streamed body; for how many seconds nothing more is to be taken."""
        self._count(caller, events, size)
        return self._wait(caller)[0]

    def _wait(self, caller: Caller) -> tuple[float, str]:
        waits = [(0.0, "")]
        if self._publishes is not None:
            waits.append(
                (self._publishes.wait(_payer(caller), self._monotonic()), "max_publishes_per_second")
            )
        if self._bytes is not None:
            waits.append(
                (self._bytes.wait(_payer(caller), self._monotonic()), "max_publish_bytes_per_second")
            )
        return max(waits)

    def _count(self, caller: Caller, events: int, size: int) -> None:
        now = self._monotonic()
        if self._publishes is not None:
            self._publishes.take(_payer(caller), events, now)
        if self._bytes is not None:
            self._bytes.take(_payer(caller), size, now)

    @property
    def limits_publishing(self) -> bool:
        """Whether there is anything to count."""
        return self._publishes is not None or self._bytes is not None


def _buckets(rate: float) -> TokenBuckets | None:
    return TokenBuckets(rate) if rate else None


def _payer(caller: Caller) -> str:
    """Who publishes: the token's subject, else the address."""
    subject = caller.grant.subject
    return f"address {caller.address}" if subject is None else f"subject {subject}"


def _limited(setting: str, what: str, wait: float) -> RateLimited:
    seconds = max(1, math.ceil(wait))
    return RateLimited(f"{what}; again in {seconds} s.", retry_after=seconds, limit=setting)
