"""Token buckets, against a plain model of each; and which caller pays for what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth.grants import FULL_ACCESS, Caller, Grant
from broker.errors import RateLimited
from broker.fanout.owner import Scheduler
from broker.node import buckets
from broker.node.buckets import MAX_DEBT_SECONDS, TokenBuckets
from broker.node.limits import NETWORKS_PER_SITE, RateLimits, RateLimitSettings, site_of

RATE = 10.0

STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 30), st.floats(0, 5)), min_size=1, max_size=40
)


@given(STEPS)
def test_each_key_is_a_bucket_of_its_own(steps: list[tuple[str, float, float]]) -> None:
    """A step: a caller takes so much, after so many seconds."""
    made, model, at, now = TokenBuckets(RATE), dict.fromkeys("abc", RATE), dict.fromkeys("abc", 0.0), 0.0
    for key, amount, seconds in steps:
        now += seconds
        level = min(RATE, model[key] + (now - at[key]) * RATE)
        assert made.wait(key, now) == pytest.approx(max(0.0, -level / RATE), abs=1e-6)
        model[key], at[key] = max(level - amount, -RATE * MAX_DEBT_SECONDS), now
        made.take(key, amount, now)


@given(st.lists(st.floats(0.1, 500), min_size=1, max_size=50))
def test_a_caller_that_waits_as_asked_keeps_to_the_rate(amounts: list[float]) -> None:
    made, now, done = TokenBuckets(RATE), 0.0, 0.0
    for amount in amounts:
        now += made.wait("a", now)
        made.take("a", amount, now)
        done += amount
    assert done <= RATE * (now + 1) + max(amounts) + 1e-6


def test_a_full_bucket_is_forgotten() -> None:
    made = TokenBuckets(RATE)
    for number in range(100):
        made.take(str(number), 5, 0.0)
    assert len(made) == 100
    made.take("last", 5, 1.0)
    assert len(made) == 1


def test_the_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MAX_BUCKETS", 10)
    made = TokenBuckets(RATE)
    for number in range(100):
        made.take(str(number), 1000, 0.0)
    assert len(made) == 10
    assert made.wait("99", 0.0) > 0


def test_a_debt_is_bounded_in_time() -> None:
    made = TokenBuckets(RATE)
    for _ in range(100):
        made.take("a", 1000, 0.0)
    assert made.wait("a", 0.0) == MAX_DEBT_SECONDS


class Elsewhere:
    """The counts of other instances: none."""

    def set_count(self, name: str, count: int) -> None:
        pass

    async def counts_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        return [0] * len(names)


class Loop:
    """A loop's time, which only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


def rate_limits(**settings: float) -> RateLimits:
    return RateLimits(RateLimitSettings(**settings), Elsewhere(), cast("Scheduler", Loop()))  # type: ignore[arg-type]


def neighbour(number: int) -> Caller:
    """A caller with a /64 of its own, within one /48."""
    return Caller(FULL_ACCESS, f"2001:db8:1:{number:x}::/64")


STRANGER = Caller(FULL_ACCESS, "2001:db8:2::/64")


async def entered(limits: RateLimits, callers: Iterable[Caller]) -> int:
    """How many of them are let in."""
    count = 0
    for caller in callers:
        with contextlib.suppress(RateLimited):
            await limits.enter(caller)
            count += 1
    return count


@pytest.mark.parametrize("setting", ["max_connections_per_address", "max_connects_per_second_per_address"])
async def test_the_networks_of_one_ipv6_site_are_counted_together(setting: str) -> None:
    limits = rate_limits(**{setting: 2})
    assert 2 <= await entered(limits, [neighbour(0)] * 10) <= 3
    assert await entered(limits, map(neighbour, range(1, 1000))) <= 2 * NETWORKS_PER_SITE + 1
    assert await entered(limits, [STRANGER]) == 1


def test_publishes_of_one_ipv6_site_are_counted_together() -> None:
    limits = rate_limits(max_publishes_per_second=2)
    admitted = [limits.try_publish(neighbour(number), 1, 0) == 0 for number in range(1000)]
    assert sum(admitted) == 2 * NETWORKS_PER_SITE + 1
    assert limits.try_publish(STRANGER, 1, 0) == 0
    named = Caller(Grant(subject="ann"), neighbour(0).address)
    assert limits.try_publish(named, 1, 0) == 0, "a named caller pays for itself"


@pytest.mark.parametrize(
    ("address", "site"),
    [("", ""), ("203.0.113.7", ""), ("2001:db8:1:2::/64", "2001:db8:1::/48"), ("::/64", "::/48")],
)
def test_the_site_of_an_address(address: str, site: str) -> None:
    assert site_of(address) == site


async def test_a_caller_refused_by_its_own_limit_takes_nothing_from_the_total() -> None:
    limits = rate_limits(max_connects_per_second=5, max_connections_per_address=1)
    greedy = Caller(FULL_ACCESS, "203.0.113.1")
    assert await entered(limits, [greedy] * 100) == 1
    others = [Caller(FULL_ACCESS, f"198.51.100.{number}") for number in range(5)]
    assert await entered(limits, others) == 5


async def test_a_stream_that_never_began_is_given_back() -> None:
    limits = rate_limits(max_connects_per_second=1, max_connects_per_second_per_address=1)
    caller = Caller(FULL_ACCESS, "203.0.113.1")
    for _ in range(10):
        await limits.enter(caller)
        limits.undo_enter(caller)
    assert await entered(limits, [caller] * 10) == 2
