"""Whether a worker hangs, by the times of its answers."""

from __future__ import annotations

import pytest

from broker.process.pulse import Pulse


def ticks_until_it_hangs(pulse: Pulse, now: float) -> int:
    """How many unanswered ticks it takes, from the time `now`."""
    for ticks in range(1, 1000):
        if pulse.tick(now + ticks * pulse.period_seconds, is_answered=False):
            return ticks
    raise AssertionError("never")


@pytest.mark.parametrize(("timeout", "period"), [(20.0, 1.0), (5.0, 1.0), (1.0, 0.2)])
def test_a_worker_hangs_after_the_timeout(timeout: float, period: float) -> None:
    pulse = Pulse(timeout, 100.0)
    assert pulse.period_seconds == period
    assert ticks_until_it_hangs(pulse, 100.0) == pytest.approx(timeout / period, abs=1)


def test_an_answer_starts_the_count_anew() -> None:
    pulse = Pulse(20.0, 0.0)
    assert not any(pulse.tick(second, is_answered=False) for second in range(1, 20))
    assert not pulse.tick(20.0, is_answered=True)
    assert not any(pulse.tick(second, is_answered=False) for second in range(21, 40))
    assert pulse.tick(40.0, is_answered=False)


def test_a_suspended_machine_adds_little() -> None:
    """Each of the workers of a laptop that slept for a night has an unanswered ping."""
    pulse = Pulse(20.0, 0.0)
    assert not pulse.tick(1.0, is_answered=False)
    assert not pulse.tick(40_000.0, is_answered=False)
    assert ticks_until_it_hangs(pulse, 40_000.0) == 17
