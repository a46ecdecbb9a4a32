"""How long to wait before a restart."""

from __future__ import annotations

from broker.process.restarts import FIRST_SECONDS, MAX_SECONDS, STABLE_SECONDS, RestartDelay


def test_the_first_time_there_is_no_delay_and_then_a_growing_one() -> None:
    delay = RestartDelay()
    delays = [delay.next(0.1) for _ in range(20)]
    assert delays[:4] == [0, FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_SECONDS


def test_a_process_that_ran_for_a_while_is_restarted_at_once() -> None:
    delay = RestartDelay()
    for _ in range(5):
        delay.next(0)
    assert delay.next(STABLE_SECONDS) == 0
    assert delay.next(0) == FIRST_SECONDS
