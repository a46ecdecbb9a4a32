"""When what died is started again."""

from __future__ import annotations

from broker.process.restarts import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, Restarts


def test_the_first_time_there_is_no_delay_and_then_a_growing_one() -> None:
    restarts = Restarts()
    delays = [restarts.delay(0.1) for _ in range(20)]
    assert delays[:4] == [0, FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_SECONDS


def test_what_has_lived_a_while_is_started_at_once() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.delay(0)
    assert restarts.delay(STEADY_SECONDS) == 0
    assert restarts.delay(0) == FIRST_SECONDS
