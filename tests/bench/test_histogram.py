"""Percentiles of latencies."""

from __future__ import annotations

import random

import pytest

from broker.bench import histogram


def test_the_histogram_keeps_percentiles_within_a_thousandth() -> None:
    draws = random.Random(1)
    latencies = sorted(int(draws.lognormvariate(15, 1)) for _ in range(5000))
    counts: histogram.Counts = {}
    for value in latencies:
        histogram.add(counts, value, 2)
    latency = histogram.latency(counts)
    assert latency.count == 10_000
    for percentile, measured in ((50, latency.p50), (90, latency.p90), (99, latency.p99), (100, latency.max)):
        true = latencies[min(len(latencies) - 1, len(latencies) * percentile // 100 - 1)] / 1e6
        assert measured == pytest.approx(true, rel=0.003)
