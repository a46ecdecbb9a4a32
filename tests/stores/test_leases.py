"""Leases in memory."""

from __future__ import annotations

import pytest

from broker.errors import RateLimited
from broker.stores.leases import Leases


def test_the_longest_lease_counts() -> None:
    leases = Leases()
    leases.take("a", 20.0)
    leases.take("a", 10.0)
    leases.take("b", 15.0)
    assert leases.expired(14.9, 9) == []
    assert leases.expired(15.0, 9) == ["b"]
    assert leases.expired(19.9, 9) == []
    assert leases.expired(20.0, 9) == ["a"]
    assert leases.expired(30.0, 9) == [], "each is returned once"


def test_a_dropped_lease_does_not_expire() -> None:
    leases = Leases()
    leases.take("a", 20.0)
    leases.drop("a")
    leases.drop("b")
    assert leases.expired(20.0, 9) == []


def test_there_may_be_so_many_but_each_can_be_renewed() -> None:
    leases = Leases(2)
    leases.take("a", 20.0)
    leases.take("b", 20.0)
    with pytest.raises(RateLimited):
        leases.take("c", 20.0)
    leases.take("b", 30.0)
    assert leases.expired(20.0, 9) == ["a"]
    leases.take("c", 20.0)


def test_the_earliest_expire_first() -> None:
    leases = Leases()
    for topic, until in (("a", 30.0), ("b", 10.0), ("c", 20.0), ("d", 5.0)):
        leases.take(topic, until)
    leases.take("d", 40.0)
    assert leases.expired(30.0, 2) == ["b", "c"]
    assert leases.expired(30.0, 2) == ["a"]
    assert leases.until("d") == 40.0
