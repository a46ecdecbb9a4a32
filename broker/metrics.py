"""Every metric of the broker, in one place.

Rules: a topic's name is never a label: there can be millions. What changes often is counted by its owner as a plain
number and read here when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

AGE_BUCKETS = (1, 5, 14, 16, 29, 31, 59, 61, 99, 101, 124, 126, 299, 301, 600, 1800, 3600, 14400, 86400)
"""Around the idle timeouts of common proxies (15, 30, 60, 100, 125, 300 s), so that a spike names the hop that cuts."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters that others raise; `read` adds those that are only looked at."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        connects = Counter(
            "broker_connects",
            "Streams opened: the first time, or with a cursor.",
            ["kind"],
            registry=self.registry,
        )
        self.first_connects = connects.labels("first")
        self.resumed_connects = connects.labels("resume")
        self.refused = Counter(
            "broker_refused_connects", "Streams refused, by why.", ["reason"], registry=self.registry
        )
        self.refused_publishes = Counter(
            "broker_refused_publishes",
            "Publishes refused since the publisher is faster than it may be, by limit.",
            ["limit"],
            registry=self.registry,
        )
        self.slowed = Counter(
            "broker_slowed_bodies_seconds",
            "For how long streamed bodies were not read, since their publisher is faster than it may be.",
            registry=self.registry,
        )
        self.cancels = Counter(
            "broker_cancels",
            "How often somebody asked here for a producer to stop, or nobody watched any more.",
            registry=self.registry,
        )
        self.closes = Counter(
            "broker_closes", "Streams that ended, by close reason.", ["reason"], registry=self.registry
        )
        self.cuts = Counter(
            "broker_cut_requests",
            "Connections that are no streams and kept the broker waiting for too long, by what for.",
            ["reason"],
            registry=self.registry,
        )
        self.age = Histogram(
            "broker_connection_age_seconds",
            "How old a stream was when it ended.",
            buckets=AGE_BUCKETS,
            registry=self.registry,
        )
        self.published = Counter(
            "broker_published_events", "Events accepted from publishers.", registry=self.registry
        )
        self.gaps = Counter(
            "broker_gaps", "Gaps told to subscribers, by reason.", ["reason"], registry=self.registry
        )

    def read(self, gauges: Iterable[Gauge]) -> None:
        """Show, whenever somebody asks for the metrics, what `gauges` say then."""
        self.registry.register(_Gauges(tuple(gauges)))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class Gauge:
    """A number that is asked for when needed: a counter where `counts`, else a gauge."""

    def __init__(self, name: str, text: str, value: Callable[[], float], *, counts: bool = False) -> None:
        self._name = name
        self._text = text
        self._value = value
        self._counts = counts

    def metric(self) -> Metric:
        family = CounterMetricFamily if self._counts else GaugeMetricFamily
        return family(self._name, self._text, value=self._value())


class _Gauges(Collector):
    def __init__(self, gauges: tuple[Gauge, ...]) -> None:
        self._readings = gauges

    def collect(self) -> Iterable[Metric]:
        return [reading.metric() for reading in self._readings]
