"""How long the client waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.backoff import Backoff

seconds = st.floats(0, 100)
bounds = st.floats(0.1, 100)


@given(seconds, bounds)
def test_first_wait_is_what_the_broker_asked_for(asked: float, bound: float) -> None:
    backoff = Backoff(3, bound)
    backoff.set_first(asked)
    assert backoff.next() == min(asked, bound)
    backoff.next()
    backoff.reset()
    assert backoff.next() == min(asked, bound)


@given(seconds, bounds, st.integers(1, 200))
def test_waits_grow_within_a_range_that_doubles_up_to_the_bound(
    asked: float, bound: float, failures: int
) -> None:
    backoff = Backoff(asked, bound)
    first = backoff.next()
    for failure in range(1, failures):
        wait = backoff.next()
        assert first <= wait <= bound
        assert wait <= max(asked, 0.1) * 2**failure


@given(seconds, bounds, seconds)
def test_retry_after_is_kept_and_jittered_up_to_the_bound(
    asked: float, bound: float, retry_after: float
) -> None:
    backoff = Backoff(asked, bound)
    for _ in range(5):
        assert min(retry_after, bound) <= backoff.next(retry_after) <= bound


def test_clients_that_fail_together_do_not_come_back_together() -> None:
    waits = set()
    for _ in range(100):
        backoff = Backoff(2, 60)
        backoff.next()
        waits.add(backoff.next())
    assert len(waits) > 90
