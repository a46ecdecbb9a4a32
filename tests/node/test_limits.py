"""Token buckets, against a plain model of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.node import limits
from broker.node.limits import TokenBuckets

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
        model[key], at[key] = level - amount, now
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
    monkeypatch.setattr(limits, "MAX_BUCKETS", 10)
    made = TokenBuckets(RATE)
    for number in range(100):
        made.take(str(number), 1000, 0.0)
    assert len(made) == 10
    assert made.wait("99", 0.0) > 0
