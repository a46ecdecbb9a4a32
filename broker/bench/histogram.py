"""Counts latencies in a dictionary, and computes their percentiles with an HDR histogram.

Rules: no sockets, no clock. The Python HdrHistogram takes microseconds for each value, too long for a load generator. Latencies
are therefore rounded down to 11 significant bits (0.1 %, the precision of the histogram's three digits) and counted in a
dictionary. At the end the histogram gets each value with its count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

MAX_US = 3_600_000_000
BITS = 11

Counts = dict[int, int]
"""How often each rounded latency (ns) occurred."""


def add(counts: Counts, latency_ns: int, count: int) -> None:
    """Count a latency `count` times."""
    shift = latency_ns.bit_length() - BITS
    key = latency_ns if shift <= 0 else latency_ns >> shift << shift
    counts[key] = counts.get(key, 0) + count


def merge(into: Counts, other: Mapping[int, int]) -> None:
    """Add `other` to `into`."""
    for latency_ns, count in other.items():
        into[latency_ns] = into.get(latency_ns, 0) + count


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds; `count` is the number of events they stand for."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


NO_LATENCY = Latency(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def latency(counts: Counts) -> Latency:
    """The percentiles, with three significant digits, between 1 µs and one hour."""
    if not counts:
        return NO_LATENCY
    histogram = HdrHistogram(1, MAX_US, 3)
    for latency_ns, count in counts.items():
        histogram.record_value(min(max(1, latency_ns // 1000), MAX_US), count)
    p50, p90, p99, p999, top = (
        int(histogram.get_value_at_percentile(percentile)) / 1000
        for percentile in (50.0, 90.0, 99.0, 99.9, 100.0)
    )
    mean = round(float(histogram.get_mean_value()) / 1000, 3)
    return Latency(int(histogram.get_total_count()), mean, p50, p90, p99, p999, top)
