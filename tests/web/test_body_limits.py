"""How many request bodies are read at once, and how many bytes of them are held."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from broker.auth.grants import ALL_TOPICS, FULL_ACCESS, UNRESTRICTED_CALLER, Caller, Grant
from broker.errors import Overloaded, RateLimited
from broker.metrics import Metrics
from broker.web.body_limits import BodyLimits

ALICE, BOB = (Caller(Grant(ALL_TOPICS, (), subject=name)) for name in ("alice", "bob"))
HERE, THERE = (Caller(FULL_ACCESS, address) for address in ("192.0.2.1", "192.0.2.2"))


def refused(metrics: Metrics, limit: str) -> float | None:
    return metrics.registry.get_sample_value("broker_refused_bodies_total", {"limit": limit})


def test_half_of_the_room_is_left_to_others() -> None:
    metrics, room = Metrics(), 6
    limits = BodyLimits(lambda: room, metrics)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(limits.enter(UNRESTRICTED_CALLER))
        with pytest.raises(Overloaded):
            limits.enter(UNRESTRICTED_CALLER)
        assert (limits.count, refused(metrics, "bodies")) == (3, 1)
    assert limits.count == 0
    with limits.enter(UNRESTRICTED_CALLER):
        room = 0  # streams have taken it
        with pytest.raises(Overloaded):
            limits.enter(UNRESTRICTED_CALLER)
    with limits.enter(UNRESTRICTED_CALLER):
        pass  # one is always possible


@pytest.mark.parametrize(
    ("client", "other", "setting"),
    [(HERE, THERE, "max_bodies_per_address"), (ALICE, BOB, "max_bodies_per_subject")],
)
def test_a_client_has_a_limit_of_its_own(client: Caller, other: Caller, setting: str) -> None:
    metrics = Metrics()
    limits = BodyLimits(lambda: 100, metrics, per_address=2, per_subject=2)
    with limits.enter(client), limits.enter(client), limits.enter(other):
        with pytest.raises(RateLimited) as raised:
            limits.enter(client)
        assert (raised.value.extra["limit"], refused(metrics, setting)) == (setting, 1)
    with limits.enter(client):
        assert limits.count == 1


def test_an_ipv6_site_has_a_limit_too() -> None:
    limits = BodyLimits(lambda: 1000, Metrics(), per_address=1)
    networks = [Caller(FULL_ACCESS, f"2001:db8:1:{number:x}::/64") for number in range(17)]
    with ExitStack() as stack:
        for network in networks[:16]:
            stack.enter_context(limits.enter(network))
        with pytest.raises(RateLimited):
            limits.enter(networks[16])
        stack.enter_context(limits.enter(Caller(FULL_ACCESS, "2001:db8:2::/64")))


def test_i4_held_bytes_are_bounded_in_all_and_for_each_client() -> None:
    metrics = Metrics()
    limits = BodyLimits(lambda: 100, metrics, max_bytes=100)
    with limits.enter(ALICE) as first, limits.enter(ALICE) as second, limits.enter(BOB) as third:
        first.hold(30)
        second.hold(20)
        first.hold(10)
        second.hold(40)
        with pytest.raises(RateLimited):
            first.hold(11)
        assert refused(metrics, "client-bytes") == 1
        third.hold(49)
        with limits.enter(UNRESTRICTED_CALLER) as fourth, pytest.raises(Overloaded):
            fourth.hold(1)
        assert refused(metrics, "bytes") == 1
        assert limits.held_bytes == 100
    assert (limits.count, limits.held_bytes) == (0, 0)
    assert not limits._counts
    assert not limits._bytes
