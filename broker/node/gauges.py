"""The metrics that a hub and its store already keep as plain numbers, read when the metrics are requested."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from broker.fanout.hub import Hub
from broker.stores.base import Store


class NodeGauges:
    """Reads the numbers of one node."""

    def __init__(self, hub: Hub, store: Store) -> None:
        self._hub = hub
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        hub, stats = self._hub, self._store.stats
        yield GaugeMetricFamily("broker_subscribers", "Open streams.", len(hub))
        yield GaugeMetricFamily(
            "broker_lagging_subscribers", "Streams that lag or replay events.", hub.lagging
        )
        yield CounterMetricFamily(
            "broker_delivered_events", "Events written to subscribers.", hub.fan_out.delivered_events
        )
        yield GaugeMetricFamily(
            "broker_backlog_bytes",
            "Bytes of events on their way to streams that do not lag.",
            hub.feeds.backlog,
        )
        yield GaugeMetricFamily("broker_log_bytes", "Memory that the logs use, in bytes.", stats.log_bytes)
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
