"""Every count and distribution of the broker, and the registry that all metrics belong to.

Rules: no topic name as a label, because there can be millions. What changes often is a plain number (`measures`) that is only
read when the metrics are requested. Gauges are read from their owners then (`node/gauges.py`, `web/monitoring.py`).
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from broker import sse
from broker.measures import LATENCY_SECONDS, Count, Counts, Distribution, Distributions, Sum
from broker.version import installed_version

AGE_BUCKETS = (1, 5, 14, 16, 29, 31, 59, 61, 99, 101, 124, 126, 299, 301, 600, 1800, 3600, 14400, 86400)
"""Seconds. The buckets lie around the idle time-outs of common proxies (15, 30, 60, 100, 125, 300 s): a proxy that cuts streams
shows as a peak."""
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds for the lag of the event loop."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Measure = Count | Counts | Distribution | Distributions | Sum
M = TypeVar("M", bound=Measure)


class Metrics:
    """The metrics of one node.

    It doesn't derive from prometheus_client's collector: while a wheel is built that package's types are missing, and what mypyc
    makes of a class with an unknown base crashes.

    Attributes:
        registry: register collectors here.
        acknowledged: only of events that were not acknowledged at once.
        written: observed once for each pass of fan-out.
        of_all_workers: returns the metrics of all workers of this broker as text, or raises `Unavailable`; None if this process is the
            only one.
        loop_lag_max: the longest lag of the event loop within the last seconds.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.of_all_workers: Callable[[], Awaitable[bytes]] | None = None
        self._measures: list[Measure] = []
        self.registry.register(self)
        self.registry.register(BuildInfo())
        self.registry.register(ProcessFigures())
        self._make_stream_measures()
        self._make_publish_measures()
        self._make_request_measures()
        self.loop_lag = self._distribution(
            "broker_loop_lag_seconds",
            "How much later than planned the event loop ran a timer, ten times a second.",
            LAG_SECONDS,
        )
        self.loop_lag_max = 0.0

    def _make_stream_measures(self) -> None:
        self.connects = self._counts(
            "broker_connects",
            "Streams opened, by kind: first, or resume for one with a cursor.",
            "kind",
            values=("first", "resume"),
        )
        self.refused_connects = self._counts(
            "broker_refused_connects",
            "Streams refused, by reason.",
            "reason",
            values=(
                "overloaded",
                "unavailable",
                "draining",
                "max_connections_per_address",
                "max_connections_per_subject",
                "max_connects_per_second",
                "max_connects_per_second_per_address",
                "max_topics_per_connection",
            ),
        )
        self.closes = self._counts("broker_closes", "Streams closed, by close reason.", "reason")
        self.age = self._distribution(
            "broker_connection_age_seconds", "Age of streams when they closed, in seconds.", AGE_BUCKETS
        )
        self.gaps = self._counts(
            "broker_gaps",
            "Gaps reported to subscribers, by reason.",
            "reason",
            values=("trimmed", "unknown-id", "lost"),
        )
        self.resumes = self._counts(
            "broker_resumes",
            "Streams opened with a cursor, by outcome: whole, or the reason of their first gap.",
            "outcome",
            values=("whole", "trimmed", "unknown-id", "lost"),
        )
        self.replay = self._distribution(
            "broker_replay_seconds",
            "Seconds from the start of a stream that asks for kept events until it has them all.",
        )
        self.written = self._distribution(
            "broker_publish_written_seconds",
            "Seconds from publishing an event until it was written to all subscribers that keep up; "
            "observed once per fan-out pass, for its oldest event; less than a millisecond may count as 0.",
        )

    def _make_publish_measures(self) -> None:
        self.published = self._count("broker_published_events", "Events accepted from publishers.")
        self.acknowledged = Distribution(
            "broker_publish_acknowledged_seconds",
            "Seconds from publishing an event until the store has acknowledged it, with the wait for slow fan-out; "
            "0 if the store needs no wait.",
        )
        self.publish_errors = self._counts(
            "broker_publish_errors", "Publish requests refused, by the error's code, or draining.", "code"
        )
        self.refused_publishes = self._counts(
            "broker_refused_publishes",
            "Publish requests refused by a rate limit, by limit.",
            "limit",
            values=("max_publishes_per_second", "max_publish_bytes_per_second"),
        )
        self.refused_bodies = self._counts(
            "broker_refused_bodies",
            "Request bodies refused because too many were arriving or waiting to be published, by limit.",
            "limit",
            values=("bodies", "bytes", "client-bytes", "max_bodies_per_address", "max_bodies_per_subject"),
        )
        self.slowed_seconds = self._added(
            Sum(
                "broker_slowed_bodies_seconds",
                "Seconds for which streamed bodies were not read because their publisher exceeded a rate limit.",
            )
        )
        self.opened_bodies = self._count("broker_streamed_bodies_opened", "Streamed bodies opened.")
        self.ended_bodies = self._counts(
            "broker_streamed_bodies_ended",
            "Streamed bodies ended, by reason: ended with their topic, complete without, cut by the client, draining, or the error's code.",
            "reason",
        )
        self.cancels = self._count(
            "broker_cancels",
            "Producers asked to stop, by a request to this instance or because the last viewer left.",
        )

    def _make_request_measures(self) -> None:
        self.denied = self._counts(
            "broker_denied_requests", "Requests answered with 401 or 403, by reason.", "status", "reason"
        )
        self.answer_bytes = self._count("broker_answer_bytes", "Bytes of answers sent, without streams.")
        self.shortened_answers = self._counts(
            "broker_shortened_answers",
            "Pages of history that got fewer events because too many bytes of answers were unread, by limit: all, or one address.",
            "limit",
            values=("all", "address"),
        )
        self.refused_answers = self._counts(
            "broker_refused_answers",
            "Large answers refused because too many bytes of answers were unread, by limit: all, or one address.",
            "limit",
            values=("all", "address"),
        )
        self.cut_requests = self._counts(
            "broker_cut_requests", "Request connections closed by a time-out, by reason.", "reason"
        )

    def _count(self, name: str, help_text: str) -> Count:
        return self._added(Count(name, help_text))

    def _counts(self, name: str, help_text: str, *labels: str, values: Iterable[str] = ()) -> Counts:
        return self._added(Counts(name, help_text, labels, values))

    def _distribution(
        self, name: str, help_text: str, bounds: Sequence[float] = LATENCY_SECONDS
    ) -> Distribution:
        return self._added(Distribution(name, help_text, bounds))

    def _added(self, measure: M) -> M:
        self._measures.append(measure)
        return measure

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        yield from map(family, self._measures)
        at_once = self.published.value - self.acknowledged.count
        yield family(self.acknowledged.with_least(at_once))

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)


def family(measure: Measure) -> Metric:
    """A measure as Prometheus' client has it, without the times at which series were created: they would double the series."""
    name, help_text = measure.name, measure.help_text
    if isinstance(measure, Count | Sum):
        return CounterMetricFamily(name, help_text, measure.value)
    if isinstance(measure, Distribution):
        return HistogramMetricFamily(name, help_text, buckets(measure), measure.sum)
    if isinstance(measure, Counts):
        counters = CounterMetricFamily(name, help_text, labels=measure.labels)
        for value, number in measure.values.items():
            counters.add_metric(value.split(" "), number)
        return counters
    histograms = HistogramMetricFamily(name, help_text, labels=measure.labels)
    for value, distribution in measure.by.items():
        histograms.add_metric(value.split(" "), buckets(distribution), distribution.sum)
    return histograms


def buckets(distribution: Distribution) -> Sequence[tuple[str, float]]:
    """The bounds and the cumulative counts of a distribution."""
    bounds = [*map(floatToGoString, distribution.bounds), "+Inf"]
    return list(zip(bounds, accumulate(distribution.counts), strict=True))


class BuildInfo:
    """Exports which build this is."""

    def __init__(self) -> None:
        self._family = GaugeMetricFamily(
            "broker_build_info",
            "Always 1; the labels name the build.",
            labels=("version", "python", "compiled"),
        )
        is_compiled = not (sse.__file__ or "").endswith(".py")
        self._family.add_metric(
            (installed_version() or "unknown", platform.python_version(), str(is_compiled).lower()), 1
        )

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        yield self._family


class ProcessFigures:
    """Exports the figures of this process, on Linux, under the names that Prometheus' clients use.

    Prometheus' own collector lists all descriptors to count them: 50 ms for ten thousand streams, in which nothing is delivered.
    """

    def __init__(self) -> None:
        self._is_linux = sys.platform == "linux"
        self._started_at = 0.0
        if self._is_linux:
            ticks = os.sysconf("SC_CLK_TCK")
            lines = Path("/proc/stat").read_text().splitlines()
            boot = next(float(line.split()[1]) for line in lines if line.startswith("btime "))
            self._started_at = boot + int(self._fields()[19]) / ticks

    @staticmethod
    def _fields() -> Sequence[str]:
        """The fields of proc_pid_stat(5) from the third on."""
        return Path("/proc/self/stat").read_text().rpartition(")")[2].split()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        if not self._is_linux:
            return
        fields, usage = self._fields(), resource.getrusage(resource.RUSAGE_SELF)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Address space in bytes.", int(fields[20]))
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory in bytes.",
            int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds", "When the process started, in seconds since 1970.", self._started_at
        )
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time in seconds.", usage.ru_utime + usage.ru_stime
        )
        yield GaugeMetricFamily("process_open_fds", "Open file descriptors.", _open_descriptors())
        yield GaugeMetricFamily("process_max_fds", "How many file descriptors may be open.", limit)


def _open_descriptors() -> int:
    """Since Linux 6.2 their directory's size is their number."""
    return Path("/proc/self/fd").stat().st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no objects
