"""The metrics of one worker as plain values, and those of several merged.

Rules: no pipes, no processes. Counters and histograms of all workers are added up, also of workers that have ended: a sum that
fell would look like a restart of everything to Prometheus. Gauges are added up too, except those in `LARGEST` and `SMALLEST`, and
`EARLIEST`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

LARGEST = frozenset(
    {
        "broker_build_info",
        "broker_draining",
        "broker_lagging_max_bytes",
        "broker_lagging_max_seconds",
        "broker_loop_lag_max_seconds",
        "broker_store_lag_seconds",
        "broker_store_memory_bytes",
        "broker_store_memory_limit_bytes",
        "broker_topics",
    }
)
"""Gauges of which the largest value counts: the worst one, or a value that all workers share."""
SMALLEST = frozenset({"broker_store_connected"})
EARLIEST = "process_start_time_seconds"
"""A gauge of which the smallest value counts that any worker ever had: a broker that replaces its workers has not restarted."""
_GROWING = frozenset({"counter", "histogram"})

Labels = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """One metric, with its samples: name, labels and value of each."""

    name: str
    kind: str
    help_text: str
    samples: Sequence[tuple[str, Labels, float]]


Snapshot = Sequence[Family]


async def take(registry: CollectorRegistry) -> Snapshot:
    """The metrics of `registry`. Other tasks run in between, so that a scrape delays no event."""
    families = []
    for metric in registry.collect():
        samples = [(s.name, tuple(s.labels.items()), float(s.value)) for s in metric.samples]
        families.append(Family(metric.name, metric.type, metric.documentation, samples))
        await asyncio.sleep(0)
    return families


def encode(snapshot: Snapshot) -> bytes:
    """A snapshot as a line, without its LF."""
    return json.dumps(snapshot, separators=(",", ":")).encode()


def decode(line: bytes) -> Snapshot:
    return [
        Family(
            name,
            kind,
            help_text,
            [(s, tuple((k, v) for k, v in labels), value) for s, labels, value in samples],
        )
        for name, kind, help_text, samples in json.loads(line)
    ]


class Merger:
    """Adds up the snapshots of workers, also of ended ones."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str, Labels], float] = {}
        self._earliest: dict[tuple[str, str, Labels], float] = {}

    def retire(self, snapshot: Snapshot) -> None:
        """Keep the counts of a worker that has ended; `snapshot` is its last one."""
        for family in snapshot:
            if family.kind in _GROWING:
                for sample, labels, value in family.samples:
                    key = family.name, sample, labels
                    self._ended[key] = self._ended.get(key, 0.0) + value

    def merge(self, current: Sequence[Snapshot], stale: Sequence[Snapshot] = ()) -> Iterable[Metric]:
        """All of them as one. Of `stale` snapshots, of workers that don't answer now, only the counts are taken."""
        metrics: dict[str, Metric] = {}
        values: dict[tuple[str, str, Labels], float] = {}
        for is_stale, snapshots in ((False, current), (True, stale)):
            for family in (family for snapshot in snapshots for family in snapshot):
                if is_stale and family.kind not in _GROWING:
                    continue
                metrics.setdefault(family.name, Metric(family.name, family.help_text, family.kind))
                for sample, labels, value in family.samples:
                    key = family.name, sample, labels
                    values[key] = value if key not in values else _combined(family.name, values[key], value)
        for key, value in self._ended.items():
            if key[0] in metrics:
                values[key] = values.get(key, 0.0) + value
        for key in [key for key in values if key[0] == EARLIEST]:
            self._earliest[key] = min(values[key], self._earliest.get(key, values[key]))
            values[key] = self._earliest[key]
        for (name, sample, labels), value in values.items():
            metrics[name].add_sample(sample, dict(labels), value)
        return metrics.values()


def _combined(name: str, one: float, other: float) -> float:
    if name in LARGEST:
        return max(one, other)
    return min(one, other) if name in SMALLEST or name == EARLIEST else one + other
