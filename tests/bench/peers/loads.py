"""The rows of the table: the load, the figure of its result, and the goals.

Rules: values and small functions of a Result; nothing runs here. A row with two loads compares them: its figure is the second
divided by the first, so that the speed of the server cancels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.bench import Result

TIMES = "\N{MULTIPLICATION SIGN}"
Medians = Mapping[str, float]
"""The median of the figures of each measured server."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal for the broker's figure. `held` returns None if the server to compare with was not measured."""

    text: str
    held: Callable[[Medians], bool | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        loads: the fields of `Load` that differ from the defaults.
        needs: what a server must be able to do; see `Peer.can`.
    """

    name: str
    title: str
    unit: str
    loads: tuple[dict[str, Any], ...]
    figure: Callable[[Result], float | None]
    goals: tuple[Goal, ...]
    needs: frozenset[str] = field(default_factory=frozenset)


def at_most(limit: float, unit: str) -> Goal:
    return Goal(f"≤ {limit:g} {unit}", lambda medians: medians["broker"] <= limit)


def at_least(limit: float, unit: str) -> Goal:
    return Goal(f"≥ {limit:,.0f}{unit}", lambda medians: medians["broker"] >= limit)


def at_most_of(factor: float, peer: str) -> Goal:
    """At most `factor` times the peer's figure."""
    return Goal(
        f"≤ {factor:g} {TIMES} {peer}",
        lambda all_: all_["broker"] <= factor * all_[peer] if peer in all_ else None,
    )


def at_least_of(factor: float, peer: str) -> Goal:
    """At least `factor` times the peer's figure."""
    return Goal(
        f"≥ {factor:g} {TIMES} {peer}",
        lambda all_: all_["broker"] >= factor * all_[peer] if peer in all_ else None,
    )


def cpu_per_delivery(result: Result) -> float | None:
    return result.cost.cpu_us_per_delivery if result.cost else None


def cpu_per_publish(result: Result) -> float | None:
    return result.cost.cpu_us_per_publish if result.cost else None


def cpu_per_connect(result: Result) -> float | None:
    return result.cost.cpu_us_per_connect if result.cost else None


def resident_per_subscriber(result: Result) -> float | None:
    return result.cost.resident_kb_per_subscriber if result.cost else None


def memory_per_stuck_reader(result: Result) -> float | None:
    return result.cost.kb_per_stuck_reader if result.cost else None


def deliveries_per_second(result: Result) -> float | None:
    return result.delivering.per_second if result.delivering else None


def p99(result: Result) -> float | None:
    return result.delivering.latency.p99 if result.delivering else None


def connects_per_second(result: Result) -> float | None:
    return result.connects.per_second


def events_per_second(result: Result) -> float | None:
    return result.publishing.per_second if result.publishing else None


TOPICS = frozenset(("topics",))
REPLAY = frozenset(("replay",))
NDJSON = frozenset(("ndjson",))
CHEAP = (at_most_of(0.85, "nchan"), at_most_of(1.25, "floor"))
ONE_BY_ONE: dict[str, Any] = {"subscribers": 1000, "rate": 10.0, "duration": 6.0}
FULL_SPEED: dict[str, Any] = {"subscribers": 0, "publishers": 32, "rate": 0.0, "duration": 4.0}
STUCK: dict[str, Any] = {
    "subscribers": 0,
    "stuck": 100,
    "publishers": 1,
    "rate": 200.0,
    "size": 16384,
    "duration": 6.0,
}

ROWS = (
    Row("cpu-1000", "CPU per delivery, 1,000 subscribers", "µs", (ONE_BY_ONE,), cpu_per_delivery, CHEAP),
    Row(
        "cpu-10000",
        "CPU per delivery, 10,000 subscribers",
        "µs",
        ({"subscribers": 10_000, "rate": 1.0, "duration": 6.0},),
        cpu_per_delivery,
        CHEAP,
    ),
    Row(
        "full-speed",
        "deliveries/s, 64 publishers into 1,000 subscribers",
        "/s",
        ({"subscribers": 1000, "publishers": 64, "rate": 0.0, "duration": 5.0},),
        deliveries_per_second,
        (at_least_of(10, "nchan"),),
    ),
    Row(
        "idle-one-topic",
        "memory per idle subscriber, 10,000 on one topic",
        "KB",
        ({"subscribers": 10_000, "duration": 0.0},),
        resident_per_subscriber,
        (at_most(2.5, "KB"),),
    ),
    Row(
        "idle-own-topics",
        "memory per idle subscriber, 10,000 each on a topic of its own",
        "KB",
        ({"subscribers": 10_000, "topics": 10_000, "duration": 0.0},),
        resident_per_subscriber,
        (at_most(4, "KB"),),
        TOPICS,
    ),
    Row(
        "stuck",
        "memory per stuck subscriber, including the kernel",
        "KB",
        (STUCK,),
        memory_per_stuck_reader,
        (at_most(256, "KB"),),
    ),
    Row(
        "connect",
        "new subscribers/s",
        "/s",
        ({"subscribers": 10_000, "connects": True},),
        connects_per_second,
        (at_least(4500, "/s"),),
    ),
    Row(
        "replay",
        "reconnecting subscribers/s, 100 events replayed to each",
        "/s",
        ({"subscribers": 10_000, "connects": True, "replay": 100},),
        connects_per_second,
        (at_least(2500, "/s"),),
        REPLAY,
    ),
    Row(
        "connect-cpu",
        "CPU of a new subscriber",
        "µs",
        ({"subscribers": 10_000, "connects": True},),
        cpu_per_connect,
        (at_most_of(0.4, "before"), at_most_of(0.65, "mercure")),
    ),
    Row(
        "replay-cpu",
        "CPU of a reconnecting subscriber, 100 events replayed",
        "µs",
        ({"subscribers": 5000, "connects": True, "replay": 100},),
        cpu_per_connect,
        (at_most_of(0.5, "before"),),
        REPLAY,
    ),
    Row(
        "publish-cpu",
        "CPU of a single POST with one delivery, 32 connections",
        "µs",
        (FULL_SPEED | {"subscribers": 1},),
        cpu_per_delivery,
        (at_most_of(0.35, "before"), at_most_of(1, "centrifugo")),
    ),
    Row(
        "publish",
        "events/s, single POSTs on 32 connections",
        "/s",
        (FULL_SPEED,),
        events_per_second,
        (at_least(10_000, "/s"),),
    ),
    Row(
        "publish-ndjson",
        "events/s, NDJSON on one connection",
        "/s",
        (FULL_SPEED | {"publishers": 1, "ndjson": True},),
        events_per_second,
        (at_least(150_000, "/s"),),
        NDJSON,
    ),
    Row(
        "latency",
        "p99 publish to deliver, 5,000 subscribers, 10 events/s",
        "ms",
        ({"subscribers": 5000, "rate": 10.0, "duration": 8.0},),
        p99,
        (at_most_of(1, "nchan"),),
    ),
    Row(
        "topics-publish",
        "CPU per publish, 50,000 topics over 1",
        TIMES,
        (FULL_SPEED, FULL_SPEED | {"topics": 50_000, "alive_topics": 50_000}),
        cpu_per_publish,
        (at_most(1.2, TIMES),),
        TOPICS,
    ),
    Row(
        "topics-deliver",
        "CPU per delivery, 50,000 topics over 1",
        TIMES,
        (ONE_BY_ONE, ONE_BY_ONE | {"alive_topics": 50_000}),
        cpu_per_delivery,
        (at_most(1.2, TIMES),),
        TOPICS,
    ),
)
