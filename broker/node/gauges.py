"""The metrics that a node and its store already keep as plain numbers, read when the metrics are requested."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from broker.fanout.hub import Hub
from broker.metrics import Metrics, family
from broker.stores.base import Store


class StreamNumbers(Protocol):
    """See `Streams`."""

    @property
    def hub(self) -> Hub: ...

    @property
    def is_draining(self) -> bool: ...

    @property
    def max_connections(self) -> int: ...


class NodeGauges:
    """Reads the numbers of one node."""

    def __init__(self, streams: StreamNumbers, store: Store, metrics: Metrics) -> None:
        self._streams = streams
        self._store = store
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        yield from self._of_streams()
        yield from self._of_fan_out()
        yield from self._of_store()
        yield GaugeMetricFamily(
            "broker_loop_lag_max_seconds",
            "The longest lag of the event loop within the last two seconds.",
            self._metrics.loop_lag_max,
        )

    def _of_streams(self) -> Iterable[Metric]:
        streams, lagging = self._streams, self._streams.hub.lagging
        yield GaugeMetricFamily("broker_subscribers", "Open streams.", len(streams.hub))
        yield GaugeMetricFamily(
            "broker_max_subscribers", "How many streams may be open.", streams.max_connections
        )
        yield GaugeMetricFamily(
            "broker_draining", "1 while this instance shuts down, else 0.", streams.is_draining
        )
        yield GaugeMetricFamily(
            "broker_workers",
            "Processes of this broker that answered the scrape and don't shut down.",
            not streams.is_draining,
        )
        yield GaugeMetricFamily(
            "broker_lagging_subscribers", "Streams that lag or replay events.", lagging.number
        )
        yield GaugeMetricFamily(
            "broker_lagging_bytes", "Approximate bytes that all lagging streams lack.", lagging.bytes
        )
        yield GaugeMetricFamily(
            "broker_lagging_max_bytes",
            "Approximate bytes that the most lagging stream lacks.",
            lagging.max_bytes,
        )
        yield GaugeMetricFamily(
            "broker_lagging_max_seconds",
            "Longest time that an open stream has lagged, in seconds.",
            lagging.max_seconds,
        )

    def _of_fan_out(self) -> Iterable[Metric]:
        hub = self._streams.hub
        fan_out = hub.fan_out
        yield CounterMetricFamily(
            "broker_delivered_events", "Events written to subscribers.", fan_out.sent.events
        )
        yield CounterMetricFamily(
            "broker_replayed_events",
            "Kept events written to streams at their beginning; they count as delivered too.",
            fan_out.sent.replayed_events,
        )
        yield CounterMetricFamily(
            "broker_stream_bytes", "Bytes written to streams, with heartbeats.", fan_out.sent.bytes
        )
        yield GaugeMetricFamily(
            "broker_backlog_bytes",
            "Bytes of events on their way to streams that do not lag.",
            hub.feeds.backlog,
        )

    def _of_store(self) -> Iterable[Metric]:
        stats = self._store.stats
        yield GaugeMetricFamily("broker_log_bytes", "Memory that the logs use, in bytes.", stats.log_bytes)
        yield GaugeMetricFamily(
            "broker_log_limit_bytes", "Memory that the logs may use, in bytes.", stats.log_limit_bytes
        )
        yield GaugeMetricFamily("broker_topics", "Topics that have a record on this instance.", stats.topics)
        yield GaugeMetricFamily(
            "broker_store_connected", "1 if the store can be used, else 0.", stats.connected
        )
        yield CounterMetricFamily(
            "broker_store_connections", "Connections made to the store.", stats.connections
        )
        yield CounterMetricFamily(
            "broker_store_mended_topics",
            "Watched topics that were read from the store again after missed messages.",
            stats.repairs,
        )
        yield GaugeMetricFamily(
            "broker_store_lag_seconds",
            "Seconds from sending a message through the store until this instance receives it.",
            stats.lag_seconds,
        )
        yield GaugeMetricFamily(
            "broker_store_memory_bytes", "Memory that the store's server uses, in bytes.", stats.memory_bytes
        )
        yield GaugeMetricFamily(
            "broker_store_memory_limit_bytes",
            "Memory that the store's server may use, in bytes; 0 without a limit.",
            stats.memory_limit_bytes,
        )
        yield family(stats.calls.seconds)
        yield family(stats.calls.retries)
        yield family(stats.calls.failures)
