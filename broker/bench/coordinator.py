"""Leads a run: takes its processes through the phases and makes a Result of what they tell.

Rules: the only place that knows the order of things. It talks with its processes by pipe and with the person by a
Progress; it makes no load itself but unstamped events before anything is measured.

The phases: look (is it there, is it SSE), prepare (topics to keep alive, events to replay), connect, warm up, publish,
drain (until all that is expected has come, or nothing more comes), collect. The server's CPU time for publishing and
delivering is that from the end of warming up to the end of draining.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from broker.bench import machine, outcome, plan, visit
from broker.bench.crew import Crew
from broker.bench.plan import BenchError, Load, Target
from broker.bench.readers import read
from broker.bench.report import Result
from broker.bench.words import Connecting, Counted, Readings, Started, Task, Writings
from broker.bench.writers import write

WARM_TOPICS = 100
SETTLE_SECONDS = 0.5
QUIET_SECONDS = 2.0
STANDSTILL_SECONDS = 30.0
PATIENCE_SECONDS = 90.0
TICK_SECONDS = 0.25


class Progress(Protocol):
    """Who is told how far it is."""

    def phase(self, title: str, total: float) -> None:
        """A phase begins; `total` is what `advance` will come to."""

    def advance(self, done: float) -> None:
        """So much of the phase is done."""


class Silent:
    """Tells nobody."""

    def phase(self, title: str, total: float) -> None: ...

    def advance(self, done: float) -> None: ...


def measure(load: Load, progress: Progress | None = None) -> Result:
    """Put `load` on its server and report. Raises BenchError where that cannot be done; leaves no process behind."""
    load.check()
    at, to = plan.target(load.url, load), plan.target(load.publish_url or load.url, load)
    plan.raise_file_limit()
    with Crew() as readers, Crew() as writers:
        return Run(load, at, to, readers, writers, progress or Silent()).measure()


@dataclass(slots=True)
class Run:
    """One run, from the first look to the Result."""

    load: Load
    at: Target
    to: Target
    readers: Crew
    writers: Crew
    progress: Progress
    peak: int = 0

    def measure(self) -> Result:
        """All phases in their order."""
        cursors = self.prepare()
        looks = [self.look()]
        for share in plan.shares(self.load):
            self.readers.start(read, self.load, self.at, share, cursors)
        self.connect()
        looks.append(self.look())
        began = time.monotonic()
        if self.load.publishes:
            self.start_writers()
            self.warm_up()
            looks.append(self.look())
            began = time.monotonic()
            self.publish()
            self.drain()
            looks.append(self.look())
        seconds = time.monotonic() - began
        return outcome.result(self.load, self.collect(), looks, self.peak, seconds)

    def look(self) -> machine.Sample | None:
        """The server's cost so far, if its process is known."""
        return machine.sample(self.load.server_pid) if self.load.server_pid else None

    def prepare(self) -> dict[int, str]:
        """See that the server does what will be asked of it; publish what must be there before. Returns the cursors."""
        load = self.load
        if load.subscribers + load.stuck:
            visit.check_stream(self.at)
        if load.publishes or load.replay:
            visit.publish(self.to, load.size, (0,))
        if load.alive_topics:
            self.progress.phase("topics to keep alive", load.alive_topics)
            visit.publish(self.to, load.size, range(load.alive_topics))
        if not load.replay:
            return {}
        cursors = {topic: visit.cursor(self.at, self.to, load.size, topic) for topic in range(load.topics)}
        visit.publish(self.to, load.size, (topic for topic in range(load.topics) for _ in range(load.replay)))
        return cursors

    def connect(self) -> None:
        """Wait until all subscribers are in or refused. Raises BenchError if none is, or nothing moves any more."""
        total = self.load.subscribers + self.load.stuck
        if not total:
            return
        self.progress.phase("connecting", total)
        settled = self.wait_while_moving(
            lambda: sum(told.connected + told.refused for told in self.readers.last(Connecting)),
            total,
            STANDSTILL_SECONDS,
        )
        told = self.readers.all_told(Connecting, STANDSTILL_SECONDS)
        if not sum(one.connected for one in told):
            raise BenchError(
                f"{self.at.where()}: no subscriber got a stream: {next((t.refusal for t in told if t.refusal), 'no answer')}"
            )
        if settled < total:
            raise BenchError(f"{self.at.where()}: only {settled:,} of {total:,} subscribers were answered")
        time.sleep(SETTLE_SECONDS)

    def start_writers(self) -> None:
        """Start the publishing processes: one beside subscribers, else as many as there are CPUs to spare."""
        load = self.load
        spare = max(1, len(os.sched_getaffinity(0)) - 1)
        processes = 1 if load.subscribers else min(load.processes or spare, load.publishers)
        for n in range(processes):
            publishers = load.publishers // processes + (n < load.publishers % processes)
            self.writers.start(write, load, self.to, Task(publishers, load.rate / processes, load.duration))

    def warm_up(self) -> None:
        """One event to each topic (the first hundred), seen through to the subscribers; then count from nothing."""
        topics = range(min(self.load.topics, WARM_TOPICS))
        visit.publish(self.to, self.load.size, topics)
        if not self.readers.hands:
            return
        self.wait_while_moving(
            self.delivered, sum(plan.fan_out(self.load, topic) for topic in topics), QUIET_SECONDS
        )
        self.readers.tell("start")
        self.readers.all_told(Started, STANDSTILL_SECONDS)

    def delivered(self) -> int:
        return sum(told.delivered for told in self.readers.last(Counted))

    def publish(self) -> None:
        """Let the publishers work until they have told all."""
        self.writers.tell("start")
        self.progress.phase("publishing", self.load.duration)
        began = time.monotonic()
        while len(self.writers.last(Writings)) < len(self.writers.hands):
            if time.monotonic() - began > self.load.duration + PATIENCE_SECONDS:
                raise BenchError(f"{self.to.where()}: the publishers do not come to an end")
            self.tick()
            self.progress.advance(min(self.load.duration, time.monotonic() - began))

    def drain(self) -> None:
        """Wait for what has been published to arrive."""
        expected = sum(told.expected for told in self.writers.last(Writings))
        if expected:
            self.progress.phase("draining", expected)
            self.wait_while_moving(self.delivered, expected, QUIET_SECONDS, self.load.drain)
        if self.load.stuck:
            time.sleep(SETTLE_SECONDS)
            self.tick()

    def tick(self) -> None:
        """A moment of listening."""
        self.writers.listen(TICK_SECONDS)
        self.readers.listen(0)
        if self.load.stuck and self.load.server_pid:
            self.peak = max(self.peak, machine.sample(self.load.server_pid).memory)

    def wait_while_moving(
        self, count: Callable[[], int], until: int, quiet: float, longest: float = float("inf")
    ) -> int:
        """Listen to the readers until `count` reaches `until`, stands still for `quiet` seconds, or `longest` is over."""
        began = moved = time.monotonic()
        seen = count()
        while seen < until and time.monotonic() < min(moved + quiet, began + longest):
            self.readers.listen(TICK_SECONDS)
            now = count()
            if now != seen:
                seen, moved = now, time.monotonic()
                self.progress.advance(seen)
        return seen

    def collect(self) -> outcome.Told:
        """All that the processes have to tell; the readers end with this."""
        self.readers.tell("stop")
        readings = self.readers.all_told(Readings, STANDSTILL_SECONDS)
        return outcome.Told(self.readers.last(Connecting), readings, self.writers.last(Writings))
