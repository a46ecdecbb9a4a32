"""Limits on connections and publishes, by address, by subject and in all.

Rules: numbers and names; the web layer decides what a refusal looks like. A limit that isn't set costs nothing. The
number of connections is exact for this instance, and at most 2 s old for the others. A refusal charges nothing.

An IPv6 address counts with its /64, the least that a customer gets (RFC 6177), and with its /48, which a large customer
gets: it has 65,536 networks of that size, and may do as much as `NETWORKS_PER_SITE` of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from broker.auth.grants import Caller
from broker.errors import RateLimited, TooLarge
from broker.fanout.owner import Scheduler
from broker.node.buckets import MAX_DEBT_SECONDS, TokenBuckets
from broker.stores.base import Counters

CONNECTIONS_RETRY_SECONDS = 30
SITE_PREFIX = 48
NETWORKS_PER_SITE = 16
EVERYBODY = ""
"""The bucket of a rate that all callers share."""


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """The settings of the same names; 0 means unlimited."""

    max_connections_per_address: int = 0
    max_connections_per_subject: int = 0
    max_connects_per_second: float = 0
    max_connects_per_second_per_address: float = 0
    max_publishes_per_second: float = 0
    max_publish_bytes_per_second: float = 0


class CallerRate:
    """A rate limit that each address, or each subject, has for itself.

    Args:
        setting: its name, for refusals.
        rate: units per second.
    """

    def __init__(self, setting: str, rate: float) -> None:
        self.setting = setting
        self._buckets = TokenBuckets(rate)
        self._sites = TokenBuckets(rate * NETWORKS_PER_SITE)

    def wait(self, payer: str, site: str, now: float) -> float:
        """Seconds until the caller is out of debt; 0 if it isn't in debt."""
        wait = self._buckets.wait(payer, now)
        return max(wait, self._sites.wait(site, now)) if site else wait

    def take(self, payer: str, site: str, amount: float, now: float) -> None:
        """Charge `amount`; a negative amount is given back."""
        self._buckets.take(payer, amount, now)
        if site:
            self._sites.take(site, amount, now)


class RateLimits:
    """Counts connections and publishes, and refuses them above `settings`.

    Args:
        loop: the clock for the rates.

    Attributes:
        limits_streams, limits_publishing: whether streams, and publishes, are counted at all.
        max_events: how many events may be charged at once; infinite without a limit.
        max_bytes: how many bytes of events, likewise.
    """

    def __init__(self, settings: RateLimitSettings, counters: Counters, loop: Scheduler) -> None:
        self._settings = settings
        self._counters = counters
        self._loop = loop
        self._connections: Counter[str] = Counter()
        rate = settings.max_connects_per_second
        self._connects = TokenBuckets(rate) if rate else None
        self._address_connects = _caller_rate(settings, "max_connects_per_second_per_address")
        self._publishes = _caller_rate(settings, "max_publishes_per_second")
        self._bytes = _caller_rate(settings, "max_publish_bytes_per_second")
        self.limits_streams = any(
            (
                settings.max_connections_per_address,
                settings.max_connections_per_subject,
                settings.max_connects_per_second,
                settings.max_connects_per_second_per_address,
            )
        )
        self.limits_publishing = self._publishes is not None or self._bytes is not None
        self.max_events = (settings.max_publishes_per_second or math.inf) * MAX_DEBT_SECONDS
        self.max_bytes = (settings.max_publish_bytes_per_second or math.inf) * MAX_DEBT_SECONDS

    # Streams

    async def enter(self, caller: Caller) -> None:
        """Let `caller` have one more stream, until `leave`. A caller over a limit of its own costs the others nothing.

        Raises:
            RateLimited: it has the maximum already, or too many streams are being opened; `limit` names the setting.
            Unavailable: the store doesn't know how many streams the other instances have.
        """
        if not self.limits_streams:
            return
        counted = self._counted_as(caller)
        self._check_connect(caller, counted, [0] * len(counted))
        if counted:
            elsewhere = await self._counters.counts_elsewhere([name for name, _, _ in counted])
            self._check_connect(caller, counted, elsewhere)
        self._count_connects(caller, 1)
        for name, _, _ in counted:
            self._count_connections(name, 1)

    def leave(self, caller: Caller) -> None:
        """The stream that `enter` let in has ended."""
        if not self.limits_streams:
            return
        for name, _, _ in self._counted_as(caller):
            self._count_connections(name, -1)

    def undo_enter(self, caller: Caller) -> None:
        """The stream that `enter` let in was refused for another reason."""
        self.leave(caller)
        self._count_connects(caller, -1)

    def _check_connect(
        self, caller: Caller, counted: Sequence[tuple[str, int, str]], elsewhere: Sequence[int]
    ) -> None:
        """Raises `RateLimited`: by the caller's own limits before the one that all share. Charges nothing."""
        for (name, limit, setting), count in zip(counted, elsewhere, strict=True):
            if self._connections[name] + count >= limit:
                what = name.partition(" ")[0]
                text = f"This {what} has {limit} open streams, the maximum"
                raise _limited(setting, text, CONNECTIONS_RETRY_SECONDS)
        if self._address_connects is not None and caller.address:
            wait = self._address_connects.wait(caller.address, site_of(caller.address), self._loop.time())
            if wait:
                raise _limited(self._address_connects.setting, "You open too many streams at once", wait)
        if self._connects is not None:
            wait = self._connects.wait(EVERYBODY, self._loop.time())
            if wait:
                raise _limited("max_connects_per_second", "Too many streams are being opened", wait)

    def _count_connects(self, caller: Caller, change: int) -> None:
        if self._address_connects is not None and caller.address:
            site = site_of(caller.address)
            self._address_connects.take(caller.address, site, change, self._loop.time())
        if self._connects is not None:
            self._connects.take(EVERYBODY, change, self._loop.time())

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
            limit, setting = settings.max_connections_per_address, "max_connections_per_address"
            counted.append((f"address {caller.address}", limit, setting))
            site = site_of(caller.address)
            if site:
                counted.append((f"network {site}", limit * NETWORKS_PER_SITE, setting))
        if settings.max_connections_per_subject and caller.grant.subject is not None:
            limit = settings.max_connections_per_subject
            counted.append((f"subject {caller.grant.subject}", limit, "max_connections_per_subject"))
        return counted

    # Publishing

    def check_publish(self, caller: Caller, events: int, size: int) -> None:
        """Charge a write of `events` of `size` bytes in all, before it is done. If it raises, nothing is charged.

        Raises:
            RateLimited: the caller is in debt.
            TooLarge: it is an event to several topics that may not be charged at once.
        """
        if events > 1 and (events > self.max_events or size > self.max_bytes):
            raise TooLarge(
                f"One publish may take at most {MAX_DEBT_SECONDS:g} s of your rate limit; send it to fewer topics at once."
            )
        wait, setting = self._wait(caller)
        if wait:
            raise _limited(setting, "You exceed the rate limit for publishing", wait)
        self._charge(caller, events, size)

    def try_publish(self, caller: Caller, events: int, size: int) -> float:
        """Charge a part of a streamed body and return 0; or, if the caller is in debt, return for how many seconds."""
        wait, _ = self._wait(caller)
        if not wait:
            self._charge(caller, events, size)
        return wait

    def _wait(self, caller: Caller) -> tuple[float, str]:
        """Seconds until the caller is out of debt, and the setting at fault."""
        now, (payer, site) = self._loop.time(), _payer(caller)
        if not payer:
            return 0.0, ""
        rates = [rate for rate in (self._publishes, self._bytes) if rate is not None]
        return max(((rate.wait(payer, site, now), rate.setting) for rate in rates), default=(0.0, ""))

    def _charge(self, caller: Caller, events: int, size: int) -> None:
        now, (payer, site) = self._loop.time(), _payer(caller)
        if not payer:
            return
        if self._publishes is not None:
            self._publishes.take(payer, site, events, now)
        if self._bytes is not None:
            self._bytes.take(payer, site, size, now)


def _caller_rate(settings: RateLimitSettings, setting: str) -> CallerRate | None:
    rate = getattr(settings, setting)
    return CallerRate(setting, rate) if rate else None


def _payer(caller: Caller) -> tuple[str, str]:
    """The buckets that pay for a publish: of its token's subject, else of its address and of that address's /48.

    "" if neither is known: a client of the unix socket, which isn't counted.
    """
    subject = caller.grant.subject
    if subject is not None:
        return f"subject {subject}", ""
    if not caller.address:
        return "", ""
    return f"address {caller.address}", site_of(caller.address)


@lru_cache(maxsize=4096)
def site_of(address: str) -> str:
    """The /48 of an IPv6 network as `Caller.address` has it; "" for anything else."""
    return str(ip_network(address).supernet(new_prefix=SITE_PREFIX)) if ":" in address else ""


def _limited(setting: str, what: str, wait: float) -> RateLimited:
    seconds = max(1, math.ceil(wait))
    return RateLimited(f"{what}; try again in {seconds} s.", retry_after=seconds, limit=setting)
