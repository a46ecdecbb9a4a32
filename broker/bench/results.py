"""Makes a Result of what the processes told and what /proc showed.

Rules: sums and quotients; waits for nothing and asks nobody.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from broker.bench import tally
from broker.bench.machine import Sample
from broker.bench.plan import Load
from broker.bench.report import Connects, Cost, Delivering, LoadCpus, Publishing, Result
from broker.bench.words import Connecting, Readings, Writings


@dataclass(frozen=True, slots=True)
class Told:
    """The last words of all processes."""

    connecting: Sequence[Connecting]
    readings: Sequence[Readings]
    writings: Sequence[Writings]


def result(load: Load, told: Told, looks: Sequence[Sample | None], peak: int, seconds: float) -> Result:
    """The Result. `looks`: before connecting, after it, and where there was publishing, before and after that.

    `seconds`: how long publishing and draining took; `peak`: the most memory seen while readers were stuck, in bytes.
    """
    connects = connects_of(told)
    publishing = publishing_of(told.writings) if told.writings else None
    delivering = delivering_of(told) if told.writings and load.subscribers else None
    busy = [one.cpu_ns / 1e9 for one in told.readings] + [one.cpu_ns / 1e9 for one in told.writings]
    cost = None
    seen = [look for look in looks if look is not None]
    if seen:
        cost = cost_of(load, seen, peak, connects.connected, publishing, delivering)
    lasted = max(seconds if told.writings else connects.seconds, 1e-9)
    cpus = LoadCpus(round(sum(busy) / lasted, 3), round(max(busy) / lasted, 3), len(os.sched_getaffinity(0)))
    return Result(load, connects, publishing, delivering, cost, cpus)


def connects_of(told: Told) -> Connects:
    """How connecting went, over all processes."""
    first = min((one.first_ns for one in told.connecting), default=0)
    seconds = max((one.last_ns for one in told.connecting), default=0) / 1e9 - first / 1e9
    connected = sum(one.connected for one in told.connecting)
    refused = sum(one.refused for one in told.connecting)
    refusal = next((one.refusal for one in told.connecting if one.refusal), "")
    closed = sum(one.closed for one in told.readings)
    return Connects(connected, refused, refusal, closed, round(seconds, 6), rate(connected, seconds))


def publishing_of(writings: Sequence[Writings]) -> Publishing:
    """How publishing went, over all processes."""
    ages: tally.Tally = {}
    for one in writings:
        tally.merge(ages, one.ages)
    published, failed, unanswered = (
        sum(getattr(one, name) for one in writings) for name in ("published", "failed", "unanswered")
    )
    failure = next((one.failure for one in writings if one.failure), "")
    seconds = (max(one.last_ns for one in writings) - min(one.first_ns for one in writings)) / 1e9
    return Publishing(
        published,
        failed,
        failure,
        unanswered,
        round(seconds, 6),
        rate(published, seconds),
        tally.latency(ages),
    )


def delivering_of(told: Told) -> Delivering:
    """How delivering went, from the first publishing to the last read."""
    ages: tally.Tally = {}
    for one in told.readings:
        tally.merge(ages, one.ages)
    delivered = sum(one.delivered for one in told.readings)
    expected = sum(one.expected for one in told.writings)
    first = min(one.first_ns for one in told.writings)
    seconds = max(0, max(one.last_ns for one in told.readings) - first) / 1e9
    return Delivering(delivered, expected, round(seconds, 6), rate(delivered, seconds), tally.latency(ages))


def cost_of(
    load: Load,
    looks: Sequence[Sample],
    peak: int,
    connected: int,
    publishing: Publishing | None,
    delivering: Delivering | None,
) -> Cost:
    """The server's cost, each figure where the run can tell it."""
    before, after = looks[:2]
    published = publishing.published if publishing else 0
    delivered = delivering.delivered if delivering else 0
    used = looks[-1].cpu_ns - looks[-2].cpu_ns if publishing else 0
    resident = None if load.stuck else per(after.resident - before.resident, connected, 1024)
    stuck = per(peak - before.memory, load.stuck, 1024) if peak else None
    return Cost(
        per(after.cpu_ns - before.cpu_ns, connected, 1000),
        None if delivered else per(used, published, 1000),
        per(used, delivered, 1000),
        resident,
        stuck,
        round(looks[-1].resident / 2**20, 2),
    )


def per(total: int, count: int, unit: int) -> float | None:
    """`total / unit` for each of `count`, None if there are none."""
    return round(total / unit / count, 3) if count else None


def rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds > 0 else 0.0
