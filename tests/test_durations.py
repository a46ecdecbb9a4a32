"""Durations in text form."""

from __future__ import annotations

import pytest

from broker.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("0s", 0),
        ("999999999h", 999_999_999 * 3600),
        ("1d", None),
        ("1000000000s", None),
        ("", None),
        ("s", None),
        ("10", None),
        ("-1s", None),
        ("1.5h", None),
        ("1s\n", None),
        (" 1s", None),
        ("\u0661s", None),
        ("1S", None),
    ],
)
def test_a_duration_is_digits_and_a_unit(text: str, seconds: int | None) -> None:
    assert parse_duration(text) == seconds


def test_the_caller_chooses_the_units() -> None:
    assert parse_duration("7d", units="smhd") == 604_800
    assert parse_duration("7m", units="s") is None
