"""Every counter and histogram of the broker, and the registry that all metrics belong to.

Rules: no topic name as a label, because there can be millions. A number that changes often is a plain attribute of its owner; a
collector (`node/gauges.py`) reads it when the metrics are requested.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric

AGE_BUCKETS = (1, 5, 14, 16, 29, 31, 59, 61, 99, 101, 124, 126, 299, 301, 600, 1800, 3600, 14400, 86400)
"""Seconds. The buckets lie around the idle time-outs of common proxies (15, 30, 60, 100, 125, 300 s): a proxy that cuts streams
shows as a peak."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PlainCounter:
    """A counter without labels or a lock, for what happens with every event: adding to `value` is all it costs.

    It is a collector that doesn't derive from prometheus_client's: while a wheel is built that package's types are missing, and
    what mypyc makes of a class with an unknown base crashes.
    """

    def __init__(self, name: str, help_text: str) -> None:
        self.value = 0
        self._name = name
        self._help_text = help_text

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        yield CounterMetricFamily(self._name, self._help_text, self.value)


class PlainCounters:
    """A collector too: plain counters of one name, one for each of the `kinds`, the values of the label `kind`.

    Attributes:
        kinds: add to the `value` of one.
    """

    def __init__(self, name: str, help_text: str, kinds: Sequence[str]) -> None:
        self.kinds = {kind: PlainCounter(name, help_text) for kind in kinds}
        self._name = name
        self._help_text = help_text

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        family = CounterMetricFamily(self._name, self._help_text, labels=["kind"])
        for kind, counter in self.kinds.items():
            family.add_metric([kind], counter.value)
        yield family


class Metrics:
    """The metrics of one node.

    Attributes:
        registry: register collectors here.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        connects = PlainCounters(
            "broker_connects",
            "Streams opened, by kind: first, or resume for one with a cursor.",
            ("first", "resume"),
        )
        self.registry.register(connects)
        self.first_connects = connects.kinds["first"]
        self.resumed_connects = connects.kinds["resume"]
        self.refused_connects = self._counter(
            "broker_refused_connects", "Streams refused, by reason.", "reason"
        )
        self.refused_publishes = self._counter(
            "broker_refused_publishes", "Publish requests refused by a rate limit, by limit.", "limit"
        )
        self.refused_bodies = self._counter(
            "broker_refused_bodies",
            "Request bodies refused because too many arrived at once, by limit.",
            "limit",
        )
        self.slowed_seconds = self._counter(
            "broker_slowed_bodies_seconds",
            "Seconds for which streamed bodies were not read because their publisher exceeded a rate limit.",
        )
        self.cancels = self._counter(
            "broker_cancels",
            "Producers asked to stop, by a request to this instance or because the last viewer left.",
        )
        self.closes = self._counter("broker_closes", "Streams closed, by close reason.", "reason")
        self.cut_requests = self._counter(
            "broker_cut_requests", "Request connections closed by a time-out, by reason.", "reason"
        )
        self.age = Histogram(
            "broker_connection_age_seconds",
            "Age of streams when they closed, in seconds.",
            buckets=AGE_BUCKETS,
            registry=self.registry,
        )
        self.published = PlainCounter("broker_published_events", "Events accepted from publishers.")
        self.registry.register(self.published)
        self.gaps = self._counter("broker_gaps", "Gaps reported to subscribers, by reason.", "reason")

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
