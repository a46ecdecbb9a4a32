"""Durations in text form, such as `90s`, `10m` or `2h`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str, units: str = "smh") -> int | None:
    """The seconds that `text` stands for, or None if it is not a duration.

    Args:
        text: up to nine digits and one letter.
        units: the letters that are allowed, of `s`, `m`, `h` and `d`. The HTTP interface allows the first three.
    """
    match = _DURATION.fullmatch(text)
    if match is None or match[2] not in units:
        return None
    return int(match[1]) * _UNIT_SECONDS[match[2]]
