"""Ages in nanoseconds, gathered at the speed of a dictionary, read as an HDR histogram.

Rules: no sockets, no clock. HdrHistogram in Python takes microseconds for each value; a load generator has no such time.
So ages are rounded down to 11 significant bits (0.1 %, no more than the histogram's three digits lose anyway), counted by
that value, and handed over once, a value and its count at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

LONGEST_US = 3_600_000_000
BITS = 11

Tally = dict[int, int]
"""How often each rounded age (ns) was seen."""


def add(tally: Tally, age_ns: int, count: int) -> None:
    """Count an age `count` times."""
    shift = age_ns.bit_length() - BITS
    key = age_ns if shift <= 0 else age_ns >> shift << shift
    tally[key] = tally.get(key, 0) + count


def merge(into: Tally, other: Mapping[int, int]) -> None:
    """Add all of `other` to `into`."""
    for age_ns, count in other.items():
        into[age_ns] = into.get(age_ns, 0) + count


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds; `count` is the number of events they stand for. `curve`: (percentile, ms), rising."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    curve: tuple[tuple[float, float], ...]


NO_LATENCY = Latency(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ())


def latency(tally: Tally) -> Latency:
    """Read the tally through an HDR histogram of three digits, 1 µs to one hour."""
    if not tally:
        return NO_LATENCY
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for age_ns, count in tally.items():
        histogram.record_value(min(max(1, age_ns // 1000), LONGEST_US), count)
    p50, p90, p99, p999, top = (ms(histogram, p) for p in (50.0, 90.0, 99.0, 99.9, 100.0))
    total = int(histogram.get_total_count())
    mean = round(float(histogram.get_mean_value()) / 1000, 3)
    return Latency(total, mean, p50, p90, p99, p999, top, curve(histogram, total))


def ms(histogram: HdrHistogram, percentile: float) -> float:
    """The age in ms below or at which `percentile` of all events lie."""
    return int(histogram.get_value_at_percentile(percentile)) / 1000


def curve(histogram: HdrHistogram, total: int) -> tuple[tuple[float, float], ...]:
    """Points for a plot over the number of nines: ten to each halving of what is left, as far as the count carries."""
    points: list[tuple[float, float]] = []
    left = 1.0
    while left * total >= 1:
        percentile = 100 * (1 - left)
        points.append((round(percentile, 6), ms(histogram, percentile)))
        left *= 2**-0.1
    return (*points, (100.0, ms(histogram, 100.0)))
