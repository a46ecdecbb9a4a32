"""The Result of a run, computed from what its processes sent and what /proc showed.

Rules: sums and quotients; it waits for nothing. Names carry their units. A figure that could not be measured is None, never 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from broker.bench import histogram
from broker.bench.histogram import Latency
from broker.bench.plan import Load
from broker.bench.proc import Sample
from broker.bench.types import ConnectProgress, PublisherResult, SubscriberResult


@dataclass(frozen=True, slots=True)
class ConnectFigures:
    """How many subscribers connected, and how fast: from the first attempt to the last success."""

    connected: int
    refused: int
    refusal: str
    closed_by_server: int
    seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class PublishFigures:
    """How many events were published. `latency`: from the time an event was due to its response."""

    published: int
    failed: int
    failure: str
    unanswered: int
    seconds: float
    per_second: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class DeliveryFigures:
    """How many events were delivered, of those expected. `latency`: from publishing to the subscriber's read."""

    delivered: int
    expected: int
    seconds: float
    per_second: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class ServerCost:
    """CPU time and memory of the server (see `proc`). The cost of a delivery includes its share of the publish."""

    cpu_us_per_connect: float | None
    cpu_us_per_publish: float | None
    cpu_us_per_delivery: float | None
    resident_kb_per_subscriber: float | None
    kb_per_stuck_reader: float | None
    resident_mb: float


@dataclass(frozen=True, slots=True)
class LoadCpus:
    """How many CPUs the load generator used, in all processes and in the busiest one; and how many it may use."""

    all: float
    busiest: float
    available: int

    @property
    def is_bottleneck(self) -> bool:
        """Whether the load generator was so busy that it may have measured itself."""
        return self.busiest > 0.9 or self.all > 0.9 * self.available


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one run; None if it did not measure them."""

    load: Load
    connects: ConnectFigures
    publishing: PublishFigures | None
    delivering: DeliveryFigures | None
    cost: ServerCost | None
    load_cpus: LoadCpus

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; of the headers only the names, because the values may be secret."""
        members = asdict(self)
        members["load"]["headers"] = [line.partition(":")[0] for line in self.load.headers]
        return members

    def warnings(self) -> list[str]:
        """What may make the figures invalid."""
        found = []
        if self.connects.refused:
            found.append(f"{self.connects.refused} subscribers were refused: {self.connects.refusal}")
        if self.connects.closed_by_server:
            found.append(f"{self.connects.closed_by_server} subscribers were closed by the server")
        if self.publishing and (self.publishing.failed or self.publishing.unanswered):
            lost = self.publishing.failed + self.publishing.unanswered
            found.append(f"{lost} events were not published: {self.publishing.failure or 'no response'}")
        if self.delivering and self.delivering.delivered != self.delivering.expected:
            found.append(f"{self.delivering.expected - self.delivering.delivered} deliveries are missing")
        if self.load_cpus.is_bottleneck and (self.publishing or self.load.connects):
            found.append("the load generator had no CPU time left: it may have measured itself")
        return found


@dataclass(frozen=True, slots=True)
class LoadResults:
    """The last messages of all processes."""

    connecting: Sequence[ConnectProgress]
    subscribers: Sequence[SubscriberResult]
    publishers: Sequence[PublisherResult]


def compute(
    load: Load, results: LoadResults, samples: Sequence[Sample | None], peak: int, seconds: float
) -> Result:
    """The Result of a run.

    Args:
        samples: taken before and after connecting, and before and after publishing, if there was publishing.
        peak: the largest memory seen while subscribers were stuck, in bytes.
        seconds: how long publishing and draining took.
    """
    connects = connect_figures(results)
    publishing = publish_figures(results.publishers) if results.publishers else None
    delivering = delivery_figures(results) if results.publishers and load.subscribers else None
    cpu_ns = [one.cpu_ns for one in results.subscribers] + [one.cpu_ns for one in results.publishers]
    taken = [sample for sample in samples if sample is not None]
    cost = server_cost(load, taken, peak, connects.connected, publishing, delivering) if taken else None
    lasted = max(seconds if results.publishers else connects.seconds, 1e-9)
    cpus = LoadCpus(
        round(sum(cpu_ns) / 1e9 / lasted, 3),
        round(max(cpu_ns) / 1e9 / lasted, 3),
        len(os.sched_getaffinity(0)),
    )
    return Result(load, connects, publishing, delivering, cost, cpus)


def merged(results: Sequence[SubscriberResult] | Sequence[PublisherResult]) -> Latency:
    """The latency over all processes."""
    counts: histogram.Counts = {}
    for one in results:
        histogram.merge(counts, one.latencies)
    return histogram.latency(counts)


def connect_figures(results: LoadResults) -> ConnectFigures:
    first = min((one.first_ns for one in results.connecting), default=0)
    seconds = max((one.last_ns for one in results.connecting), default=0) / 1e9 - first / 1e9
    connected = sum(one.connected for one in results.connecting)
    refused = sum(one.refused for one in results.connecting)
    refusal = next((one.refusal for one in results.connecting if one.refusal), "")
    closed = sum(one.closed for one in results.subscribers)
    return ConnectFigures(connected, refused, refusal, closed, round(seconds, 6), rate(connected, seconds))


def publish_figures(results: Sequence[PublisherResult]) -> PublishFigures:
    published, failed, unanswered = (
        sum(getattr(one, name) for one in results) for name in ("published", "failed", "unanswered")
    )
    failure = next((one.failure for one in results if one.failure), "")
    seconds = (max(one.last_ns for one in results) - min(one.first_ns for one in results)) / 1e9
    return PublishFigures(
        published,
        failed,
        failure,
        unanswered,
        round(seconds, 6),
        rate(published, seconds),
        merged(results),
    )


def delivery_figures(results: LoadResults) -> DeliveryFigures:
    """Delivery lasts from the first publish to the last read."""
    delivered = sum(one.delivered for one in results.subscribers)
    expected = sum(one.expected for one in results.publishers)
    first = min(one.first_ns for one in results.publishers)
    seconds = max(0, max(one.last_ns for one in results.subscribers) - first) / 1e9
    return DeliveryFigures(
        delivered, expected, round(seconds, 6), rate(delivered, seconds), merged(results.subscribers)
    )


def server_cost(
    load: Load,
    samples: Sequence[Sample],
    peak: int,
    connected: int,
    publishing: PublishFigures | None,
    delivering: DeliveryFigures | None,
) -> ServerCost:
    """The server's cost; a figure is None if this run cannot measure it."""
    before, after = samples[:2]
    published = publishing.published if publishing else 0
    delivered = delivering.delivered if delivering else 0
    used = samples[-1].cpu_ns - samples[-2].cpu_ns if publishing else 0
    resident = None if load.stuck else per(after.resident - before.resident, connected, 1024)
    stuck = per(peak - before.memory, load.stuck, 1024) if peak else None
    return ServerCost(
        per(after.cpu_ns - before.cpu_ns, connected, 1000),
        None if delivered else per(used, published, 1000),
        per(used, delivered, 1000),
        resident,
        stuck,
        round(samples[-1].resident / 2**20, 2),
    )


def per(total: int, count: int, unit: int) -> float | None:
    """`total / unit` divided by `count`; None if `count` is 0."""
    return round(total / unit / count, 3) if count else None


def rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds > 0 else 0.0
