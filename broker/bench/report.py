"""A Result as text."""

from __future__ import annotations

from broker.bench.histogram import Latency
from broker.bench.results import ConnectFigures, DeliveryFigures, PublishFigures, Result, ServerCost


def text(result: Result) -> str:
    """One line for each figure, then the warnings."""
    lines = connect_lines(result.connects, result.load.replay)
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


def connect_lines(figures: ConnectFigures, replay: int) -> list[str]:
    if not figures.connected:
        return []
    suffix = f", each with {replay} replayed events" if replay else ""
    return [row("subscribers", f"{figures.connected:,} at {figures.per_second:,.0f}/s{suffix}")]


def publish_lines(figures: PublishFigures) -> list[str]:
    published = row("published", f"{figures.published:,} events, {figures.per_second:,.1f}/s")
    return [published, *latency_lines("publish -> response", figures.latency)]


def deliver_lines(figures: DeliveryFigures) -> list[str]:
    counts = f"{figures.delivered:,} of {figures.expected:,}, {figures.per_second:,.0f}/s"
    return [row("delivered", counts), *latency_lines("publish -> delivery", figures.latency)]


def latency_lines(name: str, latency: Latency) -> list[str]:
    if not latency.count:
        return []
    percentiles = (
        f"p50 {latency.p50:.2f}  p90 {latency.p90:.2f}  p99 {latency.p99:.2f}  max {latency.max:.2f} ms"
    )
    return [row(name, f"{percentiles}  ({latency.count:,} events)")]


def cost_lines(cost: ServerCost) -> list[str]:
    figures = (
        ("CPU per connect", cost.cpu_us_per_connect, "µs"),
        ("CPU per publish", cost.cpu_us_per_publish, "µs"),
        ("CPU per delivery", cost.cpu_us_per_delivery, "µs"),
        ("memory per subscriber", cost.resident_kb_per_subscriber, "KB"),
        ("memory per stuck reader", cost.kb_per_stuck_reader, "KB, including the kernel"),
        ("memory of the server", cost.resident_mb, "MB"),
    )
    return [row(name, f"{value:,.2f} {unit}") for name, value, unit in figures if value is not None]
