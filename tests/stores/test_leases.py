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
    assert leases.expired(14.9) == []
    assert leases.expired(15.0) == ["b"]
    assert leases.expired(19.9) == []
    assert leases.expired(20.0) == ["a"]
    assert leases.expired(30.0) == [], "each is returned once"


def test_a_dropped_lease_does_not_expire() -> None:
    leases = Leases()
    leases.take("a", 20.0)
    leases.drop("a")
    leases.drop("b")
    assert leases.expired(20.0) == []


def test_there_may_be_so_many_but_each_can_be_renewed() -> None:
    leases = Leases(2)
    leases.take("a", 20.0)
    leases.take("b", 20.0)
    with pytest.raises(RateLimited):
        leases.take("c", 20.0)
    leases.take("b", 30.0)
    assert leases.expired(20.0) == ["a"]
    leases.take("c", 20.0)
