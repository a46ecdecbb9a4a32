"""The times of ids: those of the clock that gave them, with corrections."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from broker.events import SEQUENCE_BITS, id_at, id_seconds
from broker.log.timeline import MAX_CORRECTIONS, STEP_SECONDS, Correction, Timeline

STEP_MS = int(STEP_SECONDS * 1000)


def event_id(ms: int) -> int:
    return ms << SEQUENCE_BITS


def test_without_corrections_an_id_is_its_time() -> None:
    timeline = Timeline()
    assert timeline.first_id(1234.567) == id_at(1234.567)
    assert timeline.seconds(event_id(1_234_567) + 8) == id_seconds(event_id(1_234_567))
    assert timeline.first_id(-1) == 0


def test_ids_before_a_correction_are_at_the_latest_as_old_as_it() -> None:
    timeline = Timeline([Correction(1_000_000, 900_000)])
    assert [timeline.seconds(event_id(ms)) for ms in (50_000, 500_000, 999_999, 1_000_000, 1_005_000)] == [
        50.0,
        100.0,
        100.0,
        100.0,
        105.0,
    ]
    assert [timeline.first_id(seconds) >> SEQUENCE_BITS for seconds in (50, 100, 100.001, 105)] == [
        50_000,
        100_000,
        1_000_001,
        1_005_000,
    ]


def test_a_correction_fits_until_the_clock_steps_by_more_than_an_hour() -> None:
    timeline = Timeline()
    assert not timeline.fit(STEP_MS + 5, 5)
    assert timeline.fit(STEP_MS + 6, 5)
    assert list(timeline.corrections) == [(STEP_MS + 7, STEP_MS + 2)]
    assert timeline.seconds(event_id(STEP_MS + 7)) == 0.005
    assert not timeline.fit(STEP_MS + 100, 98)


def test_a_correction_goes_when_the_clock_is_there_again() -> None:
    timeline = Timeline()
    timeline.fit(10 * STEP_MS, 5)
    timeline.fit(20 * STEP_MS, 6)
    first = timeline.corrections[0]
    assert timeline.fit(20 * STEP_MS, 9 * STEP_MS + 10)
    assert list(timeline.corrections) == [first]
    assert timeline.fit(20 * STEP_MS, 19 * STEP_MS)
    assert not timeline.corrections


@given(st.integers(0, 1 << 32))
def test_times_never_fall_as_ids_rise_and_ids_are_found_by_their_times(seed: int) -> None:
    chance = random.Random(seed)
    timeline, last, given_out = Timeline(), 0, []
    for _ in range(chance.randrange(1, 30)):
        now = chance.randrange(100 * STEP_MS)
        timeline.fit(last, now)
        assert len(timeline.corrections) <= MAX_CORRECTIONS
        for _ in range(3):
            now += chance.randrange(1, 1000)
            last = max(last + 1, now + timeline.ahead_ms)
            assert last <= now + timeline.ahead_ms + STEP_MS + 10
            given_out.append(last)
    times = [timeline.seconds(event_id(ms)) for ms in given_out]
    assert times == sorted(times)
    for wanted in (*times, *(time + 0.0005 for time in times)):
        first = timeline.first_id(wanted + 0.00001) >> SEQUENCE_BITS
        floor = int((wanted + 0.00001) * 1000) / 1000
        assert [ms >= first for ms in given_out] == [time >= floor for time in times]
