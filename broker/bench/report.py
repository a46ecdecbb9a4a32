"""What came of a run: the Result, as JSON and as text.

Rules: values and words; measures nothing. Names carry their units. A figure that could not be taken is None, never 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from broker.bench.plan import Load
from broker.bench.tally import Latency


@dataclass(frozen=True, slots=True)
class Connects:
    """How the subscribers came in. `per_second` runs from the first attempt to the last that was done."""

    connected: int
    refused: int
    refusal: str
    closed_by_server: int
    seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Publishing:
    """`latency`: from the time an event was due to its answer."""

    published: int
    failed: int
    failure: str
    unanswered: int
    seconds: float
    per_second: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class Delivering:
    """`latency`: from publishing to the subscriber's read. `expected` follows from what was published."""

    delivered: int
    expected: int
    seconds: float
    per_second: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class Cost:
    """What the server's processes took; see `machine` for what is counted. A delivery's cost has its share of the publish."""

    cpu_us_per_connect: float | None
    cpu_us_per_publish: float | None
    cpu_us_per_delivery: float | None
    resident_kb_per_subscriber: float | None
    kb_per_stuck_reader: float | None
    resident_mb: float


@dataclass(frozen=True, slots=True)
class LoadCpus:
    """How many CPUs the load generator kept busy: all its processes, the busiest one, and how many it may use."""

    all: float
    busiest: float
    available: int

    @property
    def is_bottleneck(self) -> bool:
        """Whether it had so little time to spare that it may have measured itself."""
        return self.busiest > 0.9 or self.all > 0.9 * self.available


@dataclass(frozen=True, slots=True)
class Result:
    """One run; what it did not measure is None."""

    load: Load
    connects: Connects
    publishing: Publishing | None
    delivering: Delivering | None
    cost: Cost | None
    load_cpus: LoadCpus

    def as_json(self) -> dict[str, Any]:
        """All of it as values that JSON knows."""
        members = asdict(self)
        members["load"]["headers"] = [
            line.partition(":")[0] for line in self.load.headers
        ]  # not their secrets
        return members

    def warnings(self) -> list[str]:
        """What a reader of the figures must know."""
        found = []
        if self.connects.refused:
            found.append(f"{self.connects.refused} subscribers did not get a stream: {self.connects.refusal}")
        if self.connects.closed_by_server:
            found.append(f"{self.connects.closed_by_server} subscribers were closed by the server")
        if self.publishing and (self.publishing.failed or self.publishing.unanswered):
            lost = self.publishing.failed + self.publishing.unanswered
            found.append(f"{lost} events were not published: {self.publishing.failure or 'not answered'}")
        if self.delivering and self.delivering.delivered != self.delivering.expected:
            found.append(f"{self.delivering.expected - self.delivering.delivered} deliveries are missing")
        if self.load_cpus.is_bottleneck and (self.publishing or self.load.connects):
            found.append("the load generator had no CPU time to spare: it may have measured itself")
        return found


def text(result: Result) -> str:
    """The result for a person, a line a figure."""
    lines = list(connect_lines(result))
    if result.publishing:
        lines += publish_lines(result.publishing)
    if result.delivering:
        lines += deliver_lines(result.delivering)
    if result.cost:
        lines += cost_lines(result.cost)
    lines += [row("load generator", f"{result.load_cpus.all:.2f} of {result.load_cpus.available} CPUs busy")]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in result.warnings())])


def row(name: str, value: str) -> str:
    return f"{name:<22} {value}"


def connect_lines(result: Result) -> list[str]:
    if not result.connects.connected:
        return []
    seen, load = result.connects, result.load
    how = f", each with {load.replay} events replayed" if load.replay else ""
    return [row("subscribers", f"{seen.connected:,} at {seen.per_second:,.0f}/s{how}")]


def publish_lines(seen: Publishing) -> list[str]:
    lines = [row("published", f"{seen.published:,} events, {seen.per_second:,.1f}/s")]
    return [*lines, row("publish -> answer", latency_text(seen.latency))] if seen.latency.count else lines


def deliver_lines(seen: Delivering) -> list[str]:
    lines = [row("delivered", f"{seen.delivered:,} of {seen.expected:,}, {seen.per_second:,.0f}/s")]
    return [*lines, row("publish -> deliver", latency_text(seen.latency))] if seen.latency.count else lines


def latency_text(seen: Latency) -> str:
    return f"p50 {seen.p50:.2f}  p90 {seen.p90:.2f}  p99 {seen.p99:.2f}  max {seen.max:.2f} ms  ({seen.count:,} events)"


def cost_lines(cost: Cost) -> list[str]:
    figures = (
        ("CPU per connect", cost.cpu_us_per_connect, "µs"),
        ("CPU per publish", cost.cpu_us_per_publish, "µs"),
        ("CPU per delivery", cost.cpu_us_per_delivery, "µs"),
        ("memory per subscriber", cost.resident_kb_per_subscriber, "KB"),
        ("memory per stuck reader", cost.kb_per_stuck_reader, "KB, the kernel's included"),
        ("server's memory", cost.resident_mb, "MB"),
    )
    return [row(name, f"{value:,.2f} {unit}") for name, value, unit in figures if value is not None]
