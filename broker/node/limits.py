"""Limits on connections and publishes, by address, by subject and in all.

Rules: numbers and names; the web layer decides what a refusal looks like. A limit that isn't set costs nothing. The
number of connections is exact for this instance, and at most 2 s old for the others.

Rates are token buckets (RFC 2697's idea, with one rate). A caller that isn't in debt may do something of any size, and
is in debt until the rate has paid for it. So an event larger than a second's share goes through now and then, and the
average holds.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from broker.auth.grants import Caller
from broker.errors import RateLimited
from broker.fanout.owner import Scheduler
from broker.stores.base import Counters

MAX_BUCKETS = 100_000
CONNECTIONS_RETRY_SECONDS = 30
EVERYBODY = ""
"""The bucket of a rate that all callers share."""


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
        """Take `amount` out of the bucket of `key`. `now` never decreases."""
        self._levels[key] = self._level(key, now) - amount, now
        self._levels.move_to_end(key)
        while self._levels and (len(self._levels) > MAX_BUCKETS or self._is_oldest_full(now)):
            self._levels.popitem(last=False)

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (self._rate, now))
        return min(self._rate, level + (now - at) * self._rate)

    def _is_oldest_full(self, now: float) -> bool:
        oldest = next(iter(self._levels))
        return self._level(oldest, now) >= self._rate


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """The settings of the same names; 0 means unlimited."""

    max_connections_per_address: int = 0
    max_connections_per_subject: int = 0
    max_connects_per_second: float = 0
    max_publishes_per_second: float = 0
    max_publish_bytes_per_second: float = 0


class RateLimits:
    """Counts connections and publishes, and refuses them above `settings`.

    Args:
        loop: the clock for the rates.

    Attributes:
        limits_publishing: whether publishes are counted at all.
    """

    def __init__(self, settings: RateLimitSettings, counters: Counters, loop: Scheduler) -> None:
        self._settings = settings
        self._counters = counters
        self._loop = loop
        self._connections: Counter[str] = Counter()
        self._connects = _buckets(settings.max_connects_per_second)
        self._publishes = _buckets(settings.max_publishes_per_second)
        self._bytes = _buckets(settings.max_publish_bytes_per_second)
        self.limits_publishing = self._publishes is not None or self._bytes is not None

    # Streams

    async def enter(self, caller: Caller) -> None:
        """Let `caller` have one more stream, until `leave`.

        Raises:
            RateLimited: it has the maximum already, or too many streams are being opened; `limit` names the setting.
            Unavailable: the store doesn't know how many streams the other instances have.
        """
        self._check_connect_rate()
        counted = self._counted_as(caller)
        if not counted:
            return
        names = [name for name, _, _ in counted]
        elsewhere = await self._counters.counts_elsewhere(names)
        for (name, limit, setting), count in zip(counted, elsewhere, strict=True):
            if self._connections[name] + count >= limit:
                what = "address" if setting.endswith("address") else "subject"
                text = f"This {what} has {limit} open streams, the maximum"
                raise _limited(setting, text, CONNECTIONS_RETRY_SECONDS)
        for name in names:
            self._count_connections(name, 1)

    def leave(self, caller: Caller) -> None:
        """Undo `enter`."""
        for name, _, _ in self._counted_as(caller):
            self._count_connections(name, -1)

    def _check_connect_rate(self) -> None:
        if self._connects is None:
            return
        now = self._loop.time()
        wait = self._connects.wait(EVERYBODY, now)
        if wait:
            raise _limited("max_connects_per_second", "Too many streams are being opened", wait)
        self._connects.take(EVERYBODY, 1, now)

    def _count_connections(self, name: str, change: int) -> None:
        self._connections[name] += change
        self._counters.set_count(name, self._connections[name])
        if not self._connections[name]:
            del self._connections[name]

    def _counted_as(self, caller: Caller) -> Sequence[tuple[str, int, str]]:
        """Names to count the caller's streams under, each with its limit and the setting."""
        settings = self._settings
        counted = []
        if settings.max_connections_per_address and caller.address:
            limit = settings.max_connections_per_address
            counted.append((f"address {caller.address}", limit, "max_connections_per_address"))
        if settings.max_connections_per_subject and caller.grant.subject is not None:
            limit = settings.max_connections_per_subject
            counted.append((f"subject {caller.grant.subject}", limit, "max_connections_per_subject"))
        return counted

    # Publishing

    def check_publish(self, caller: Caller, events: int, size: int) -> None:
        """Count `events` of `size` bytes in all. Raises `RateLimited` if the caller is in debt; then nothing is counted."""
        wait, setting = self._wait(caller)
        if wait:
            raise _limited(setting, "You exceed the rate limit for publishing", wait)
        self._count(caller, events, size)

    def slow_down(self, caller: Caller, events: int, size: int) -> float:
        """Count a part of a streamed body. Returns for how many seconds to read no more of it."""
        self._count(caller, events, size)
        return self._wait(caller)[0]

    def _wait(self, caller: Caller) -> tuple[float, str]:
        """Seconds until the caller is out of debt, and the setting at fault."""
        now, payer = self._loop.time(), _payer(caller)
        waits = [(0.0, "")]
        if self._publishes is not None:
            waits.append((self._publishes.wait(payer, now), "max_publishes_per_second"))
        if self._bytes is not None:
            waits.append((self._bytes.wait(payer, now), "max_publish_bytes_per_second"))
        return max(waits)

    def _count(self, caller: Caller, events: int, size: int) -> None:
        now = self._loop.time()
        if self._publishes is not None:
            self._publishes.take(_payer(caller), events, now)
        if self._bytes is not None:
            self._bytes.take(_payer(caller), size, now)


def _buckets(rate: float) -> TokenBuckets | None:
    return TokenBuckets(rate) if rate else None


def _payer(caller: Caller) -> str:
    """The bucket of a publisher: its token's subject, else its address."""
    subject = caller.grant.subject
    return f"address {caller.address}" if subject is None else f"subject {subject}"


def _limited(setting: str, what: str, wait: float) -> RateLimited:
    seconds = max(1, math.ceil(wait))
    return RateLimited(f"{what}; try again in {seconds} s.", retry_after=seconds, limit=setting)
