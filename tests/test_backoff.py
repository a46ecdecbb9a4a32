"""Waits between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.backoff import FIRST_RESTART_SECONDS, MAX_RESTART_SECONDS, STABLE_SECONDS, Backoff, RestartBackoff

seconds = st.floats(0, 100)
bounds = st.floats(0.1, 100)


@given(seconds, bounds)
def test_the_first_wait_is_fixed(asked: float, bound: float) -> None:
    backoff = Backoff(3, bound)
    backoff.set_first(asked)
    assert backoff.next() == min(asked, bound)
    backoff.next()
    backoff.reset()
    assert backoff.next() == min(asked, bound)


@given(seconds, bounds, st.integers(1, 200))
def test_the_limit_of_the_waits_doubles(asked: float, bound: float, failures: int) -> None:
    backoff = Backoff(asked, bound)
    first = backoff.next()
    for failure in range(1, failures):
        wait = backoff.next()
        assert first <= wait <= bound
        assert wait <= max(asked, 0.1) * 2**failure


@given(seconds, bounds, seconds)
def test_a_wait_is_at_least_retry_after_and_at_most_the_maximum(
    asked: float, bound: float, retry_after: float
) -> None:
    backoff = Backoff(asked, bound)
    for _ in range(5):
        assert min(retry_after, bound) <= backoff.next(retry_after) <= bound


def test_waits_are_random() -> None:
    waits = set()
    for _ in range(100):
        backoff = Backoff(2, 60)
        backoff.next()
        waits.add(backoff.next())
    assert len(waits) > 90


def test_the_first_restart_is_immediate_and_later_waits_double() -> None:
    backoff = RestartBackoff()
    delays = [backoff.next(0.1) for _ in range(20)]
    assert delays[:4] == [0, FIRST_RESTART_SECONDS, 2 * FIRST_RESTART_SECONDS, 4 * FIRST_RESTART_SECONDS]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_RESTART_SECONDS


def test_a_process_that_ran_for_a_while_is_restarted_at_once() -> None:
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.next(0)
    assert backoff.next(STABLE_SECONDS) == 0
    assert backoff.next(0) == FIRST_RESTART_SECONDS
