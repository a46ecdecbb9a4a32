"""Ids as text and as numbers, and the times in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.events import SEQUENCE_BITS, format_id, id_at, id_seconds, parse_id, rfc3339

PART = st.integers(0, 2**64 - 1)


@given(PART, PART)
def test_an_id_survives_its_text_form(ms: int, n: int) -> None:
    text = f"{ms}-{n}"
    event_id = parse_id(text)
    assert event_id is not None
    assert format_id(event_id) == text


@given(PART, PART, PART, PART)
def test_ids_compare_by_their_two_numbers(ms: int, n: int, other_ms: int, other_n: int) -> None:
    one, other = parse_id(f"{ms}-{n}"), parse_id(f"{other_ms}-{other_n}")
    assert one is not None
    assert other is not None
    assert (one < other) == ((ms, n) < (other_ms, other_n))


NO_IDS = ["", "-", "1", "1-", "-1", "--", "1-2-3", "1--2", "+1-2", "1-+2", " 1-2", "1-2 ", "1-2\n", "1.0-2"]
NO_NUMBERS = ["1e3-0", "0x1-0", "1_0-0", "a-b", "nan-0", "None", "$", "0-0\0"]
OTHER_DIGITS = ["\u0661-\u0662", "\u00b2-0", "1-\uff12", "\ud800-0", "1\u20280-0"]
TOO_LONG = [
    f"{2**64}-0",
    f"0-{2**64}",
    "9" * 21 + "-0",
    "9" * 5000 + "-0",
    "0-" + "9" * 5000,
    "0" * 21 + "-0",
]


@pytest.mark.parametrize("text", [*NO_IDS, *NO_NUMBERS, *OTHER_DIGITS, *TOO_LONG])
def test_other_texts_are_not_ids(text: str) -> None:
    assert parse_id(text) is None


@given(st.text())
def test_any_text_is_an_id_or_none(text: str) -> None:
    event_id = parse_id(text)
    assert event_id is None or 0 <= event_id < 2**128


def test_an_id_may_have_leading_zeros() -> None:
    assert parse_id("007-01") == parse_id("7-1")


@given(st.integers(0, 253_402_300_799_999))
def test_time_in_an_id(ms: int) -> None:
    event_id = ms << SEQUENCE_BITS | 5
    assert id_at(id_seconds(event_id)) >> SEQUENCE_BITS in (ms - 1, ms), (
        "a float is exact to under a millisecond"
    )
    assert abs(id_seconds(event_id) * 1000 - ms) < 1


@pytest.mark.parametrize("seconds", [-1e18, -1.0, -0.0001, 0.0])
def test_times_before_1970_give_the_lowest_id(seconds: float) -> None:
    assert id_at(seconds) == 0


@given(st.integers(0, 4_102_444_799_999))
def test_rfc3339_is_utc_with_milliseconds(ms: int) -> None:
    text = rfc3339(ms / 1000)
    assert text.endswith("Z")
    assert len(text) == len("2026-11-22T07:54:40.123Z")
    since = datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)
    assert since / timedelta(milliseconds=1) == ms
