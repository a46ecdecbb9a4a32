"""Leads the processes through the phases of a run, and computes the Result.

Rules: the only module that knows the order of the phases. It exchanges messages with its processes and shows progress. It makes
no load itself, except events without a time stamp before anything is measured.

The phases: check the server, prepare (topics to keep alive, events to replay), connect, warm up, publish, drain (until all
expected deliveries have come, or no more come), collect. The server's CPU time for publishing and delivering is measured from
the end of the warm-up to the end of the drain.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.bench import plan, preflight, proc, results
from broker.bench.plan import BenchError, Load, Target
from broker.bench.processes import ProcessGroup
from broker.bench.publishers import run_publishers
from broker.bench.results import LoadResults, Result
from broker.bench.subscribers import run_subscribers
from broker.bench.types import (
    ConnectProgress,
    CountingStarted,
    DeliveryCount,
    ProgressReporter,
    PublisherResult,
    PublisherShare,
    SubscriberResult,
)
from broker.descriptors import raise_limit

MAX_WARM_UP_TOPICS = 100
SETTLE_SECONDS = 0.5
QUIET_SECONDS = 2.0
STALL_SECONDS = 30.0
PUBLISHER_EXTRA_SECONDS = 90.0
TICK_SECONDS = 0.25


class _NoProgress:
    def begin(self, title: str, total: float | None) -> None: ...

    def update(self, done: float) -> None: ...


def measure(load: Load, progress: ProgressReporter | None = None) -> Result:
    """Run the load. Raises BenchError if that is impossible; leaves no process behind."""
    load.check()
    subscribe_target = plan.resolve(load.url, load)
    publish_target = plan.resolve(load.publish_url or load.url, load)
    raise_limit()
    with ProcessGroup() as subscribers, ProcessGroup() as publishers:
        run = Run(load, subscribe_target, publish_target, subscribers, publishers, progress or _NoProgress())
        return run.measure()


@dataclass(slots=True)
class Run:
    """One run, from the first check to the Result."""

    load: Load
    subscribe_target: Target
    publish_target: Target
    subscribers: ProcessGroup
    publishers: ProcessGroup
    progress: ProgressReporter
    peak_memory: int = field(default=0, init=False)

    def measure(self) -> Result:
        """Go through all phases."""
        cursors = self.prepare()
        samples = [self.sample()]
        for share in plan.shares(self.load):
            self.subscribers.start(run_subscribers, self.load, self.subscribe_target, share, cursors)
        self.connect()
        samples.append(self.sample())
        start = time.monotonic()
        if self.load.publishes:
            self.start_publishers()
            self.warm_up()
            samples.append(self.sample())
            start = time.monotonic()
            self.publish()
            self.drain()
            samples.append(self.sample())
        seconds = time.monotonic() - start
        return results.compute(self.load, self.collect(), samples, self.peak_memory, seconds)

    def sample(self) -> proc.Sample | None:
        """The server's CPU time and memory now, if its process is known."""
        return proc.sample(self.load.server_pid) if self.load.server_pid else None

    def prepare(self) -> dict[int, str]:
        """Check the server, and publish the events that the run needs. Returns the cursors to reconnect with, by topic."""
        load = self.load
        if load.subscribers + load.stuck:
            preflight.check_stream(self.subscribe_target)
        if load.publishes or load.replay:
            preflight.publish(self.publish_target, load.size, (0,))
        if load.alive_topics:
            self.progress.begin("topics to keep alive", load.alive_topics)
            preflight.publish(self.publish_target, load.size, range(load.alive_topics))
        if not load.replay:
            return {}
        cursors = {
            topic: preflight.find_cursor(self.subscribe_target, self.publish_target, load.size, topic)
            for topic in range(load.topics)
        }
        replayed = (topic for topic in range(load.topics) for _ in range(load.replay))
        preflight.publish(self.publish_target, load.size, replayed)
        return cursors

    def connect(self) -> None:
        """Wait until all subscribers are connected or refused. Raises BenchError if none connects, or on a stall."""
        total = self.load.subscribers + self.load.stuck
        if not total:
            return
        self.progress.begin("connecting", total)
        settled = self.wait_while_counting(self.settled, total, STALL_SECONDS)
        reports = self.subscribers.wait_for_all(ConnectProgress, STALL_SECONDS)
        url = self.subscribe_target.url()
        if not sum(report.connected for report in reports):
            refusal = next((report.refusal for report in reports if report.refusal), "no response")
            raise BenchError(f"{url}: no subscriber got a stream: {refusal}")
        if settled < total:
            raise BenchError(f"{url}: only {settled:,} of {total:,} subscribers got a response")
        time.sleep(SETTLE_SECONDS)

    def settled(self) -> int:
        """How many subscribers are connected or refused."""
        return sum(report.connected + report.refused for report in self.subscribers.last(ConnectProgress))

    def delivered(self) -> int:
        return sum(report.delivered for report in self.subscribers.last(DeliveryCount))

    def start_publishers(self) -> None:
        """Start one publishing process if there are subscribers, else one for each spare CPU."""
        load = self.load
        spare = max(1, len(os.sched_getaffinity(0)) - 1)
        processes = 1 if load.subscribers else min(load.processes or spare, load.publishers)
        for n in range(processes):
            publishers = load.publishers // processes + (n < load.publishers % processes)
            share = PublisherShare(publishers, load.rate / processes, load.duration)
            self.publishers.start(run_publishers, load, self.publish_target, share)

    def warm_up(self) -> None:
        """Publish one event to each topic (at most 100), wait for the deliveries, and set all counts to zero."""
        topics = range(min(self.load.topics, MAX_WARM_UP_TOPICS))
        preflight.publish(self.publish_target, self.load.size, topics)
        if not len(self.subscribers):
            return
        expected = sum(plan.fan_out(self.load, topic) for topic in topics)
        self.wait_while_counting(self.delivered, expected, QUIET_SECONDS)
        self.subscribers.send("start")
        self.subscribers.wait_for_all(CountingStarted, STALL_SECONDS)

    def publish(self) -> None:
        """Let the publishers work until all have sent their results. Raises BenchError if that takes too long."""
        self.publishers.send("start")
        self.progress.begin("publishing", self.load.duration)
        start = time.monotonic()
        while len(self.publishers.last(PublisherResult)) < len(self.publishers):
            if time.monotonic() - start > self.load.duration + PUBLISHER_EXTRA_SECONDS:
                raise BenchError(f"{self.publish_target.url()}: the publishers do not finish")
            self.tick()
            self.progress.update(min(self.load.duration, time.monotonic() - start))

    def drain(self) -> None:
        """Wait for the deliveries of the published events."""
        expected = sum(result.expected for result in self.publishers.last(PublisherResult))
        if expected:
            self.progress.begin("draining", expected)
            self.wait_while_counting(self.delivered, expected, QUIET_SECONDS, self.load.drain)
        if self.load.stuck:
            time.sleep(SETTLE_SECONDS)
            self.tick()

    def tick(self) -> None:
        """Receive messages for a moment, and measure the memory that stuck subscribers occupy."""
        self.publishers.receive(TICK_SECONDS)
        self.subscribers.receive(0)
        if self.load.stuck and self.load.server_pid:
            self.peak_memory = max(self.peak_memory, proc.sample(self.load.server_pid).memory)

    def wait_while_counting(
        self, count: Callable[[], int], target: int, quiet_seconds: float, max_seconds: float = float("inf")
    ) -> int:
        """Receive the subscribers' messages until `count` reaches `target`. Returns the last count.

        Gives up when the count has not changed for `quiet_seconds`, or after `max_seconds`.
        """
        start = changed_at = time.monotonic()
        last = count()
        while last < target and time.monotonic() < min(changed_at + quiet_seconds, start + max_seconds):
            self.subscribers.receive(TICK_SECONDS)
            now = count()
            if now != last:
                last, changed_at = now, time.monotonic()
                self.progress.update(last)
        return last

    def collect(self) -> LoadResults:
        """Stop the subscribers; return the results of all processes."""
        self.subscribers.send("stop")
        subscribers = self.subscribers.wait_for_all(SubscriberResult, STALL_SECONDS)
        connecting = self.subscribers.last(ConnectProgress)
        return LoadResults(connecting, subscribers, self.publishers.last(PublisherResult))
