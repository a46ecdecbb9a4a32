"""`python -m tests.bench.workers`: how much faster several workers on one machine are.

Rules: the loads are those of `broker bench`. Nothing is pinned: the broker with its Valkey and the load share all CPUs. Figures
therefore rise with the number of workers only while there are spare CPUs. The CPU time that the broker needs for one operation
shows the cost of a worker.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.bench import Load, Result, measure
from tests.bench.peers.__main__ import machine
from tests.bench.peers.servers import Broker, running

WORKERS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a load, and the figures of its result."""

    title: str
    load: dict[str, Any]
    figures: Callable[[Result], tuple[float | None, ...]]
    shown: str


def publishing(result: Result) -> tuple[float | None, ...]:
    assert result.publishing is not None
    return result.publishing.per_second, result.cost.cpu_us_per_publish if result.cost else None


def delivering(result: Result) -> tuple[float | None, ...]:
    assert result.delivering is not None
    return result.delivering.latency.p99, result.cost.cpu_us_per_delivery if result.cost else None


def connecting(result: Result) -> tuple[float | None, ...]:
    return (result.connects.per_second,)


ROWS = (
    Row(
        "single POSTs, 32 connections",
        {"subscribers": 0, "publishers": 32, "rate": 0.0, "duration": 4.0},
        publishing,
        "{0:,.0f}/s, {1:.0f} µs of CPU each",
    ),
    Row(
        "10 events/s to 5,000 subscribers",
        {"subscribers": 5000, "rate": 10.0, "duration": 6.0},
        delivering,
        "p99 {0:.0f} ms, {1:.1f} µs of CPU a delivery",
    ),
    Row("new subscribers", {"subscribers": 10_000, "connects": True}, connecting, "{0:,.0f}/s"),
)


def once(workers: int, load: dict[str, Any]) -> Result:
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = Broker(f"{workers} workers", f"--workers={workers}", "--data={directory}/data")
        server = stack.enter_context(running(peer, cpus[0], cpus[1], directory))
        unpin(server.pid, cpus)
        os.sched_setaffinity(0, cpus)
        return measure(
            Load(url=server.url, publish_url=server.publish_url, server_pid=server.pid, processes=2, **load)
        )


def unpin(pid: int, cpus: list[int]) -> None:
    """Let a process and its descendants run on any of `cpus`."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)
        for child in (thread / "children").read_text().split():
            unpin(int(child), cpus)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.workers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"| load | {' | '.join(f'{count} workers' for count in WORKERS)} |")
    print("| --- " * (len(WORKERS) + 1) + "|")
    for row in ROWS:
        seen: dict[int, list[tuple[float | None, ...]]] = {count: [] for count in WORKERS}
        for _ in range(rounds):
            for count in WORKERS:
                seen[count].append(row.figures(once(count, row.load)))
        cells = (row.shown.format(*map(median, zip(*seen[count], strict=True))) for count in WORKERS)
        print(f"| {row.title} | {' | '.join(cells)} |", flush=True)
    print(f"\n{machine()}, shared by the broker, its Valkey and the load; median of {rounds}")
    return 0


def median(values: tuple[float | None, ...]) -> float:
    return statistics.median(value or 0.0 for value in values)


if __name__ == "__main__":
    sys.exit(main())
