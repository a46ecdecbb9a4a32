"""Metrics of a hub and its store that are read only when somebody asks.

Rules: their owners keep these numbers anyway; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.fanout.hub import Hub
from broker.metrics import Gauge
from broker.stores.base import Store


def gauges(hub: Hub, store: Store) -> Sequence[Gauge]:
    """For `Metrics.read`."""
    return [
        Gauge("broker_subscribers", "Open streams.", lambda: len(hub)),
        Gauge("broker_lagging_subscribers", "Streams that lag or replay.", lambda: hub.lagging),
        Gauge(
            "broker_delivered_events",
            "Events written to subscribers.",
            lambda: hub.fan_out.delivered_events,
            counts=True,
        ),
        Gauge(
            "broker_backlog_bytes",
            "Bytes on their way to subscribers that are up to date.",
            lambda: hub.feeds.backlog,
        ),
        Gauge("broker_log_bytes", "Memory that the logs take.", lambda: store.stats.log_bytes),
        Gauge("broker_topics", "Topics with a record.", lambda: store.stats.topics),
        Gauge("broker_store_connected", "1 while the store can be used.", lambda: store.stats.connected),
        Gauge(
            "broker_store_connections",
            "Connections made to the store.",
            lambda: store.stats.connections,
            counts=True,
        ),
        Gauge(
            "broker_store_mended_topics",
            "Watched topics read again from the store because events were missed.",
            lambda: store.stats.repairs,
            counts=True,
        ),
        Gauge(
            "broker_store_lag_seconds",
            "Time from a call to the store until its message arrives.",
            lambda: store.stats.lag_seconds,
        ),
    ]
