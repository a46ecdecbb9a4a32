"""What of a hub and its store is only looked at when somebody asks for the metrics.

Rules: numbers that their owners keep anyway; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.fanout.hub import Hub
from broker.metrics import Gauge
from broker.stores.base import Store


def gauges(hub: Hub, store: Store) -> Sequence[Gauge]:
    """All of them, for `Metrics.read`."""
    return [
        Gauge("broker_subscribers", "Open streams.", lambda: len(hub)),
        Gauge("broker_lagging_subscribers", "Streams that lag or replay.", lambda: hub.lagging),
        Gauge(
            "broker_delivered_events", "Events written to subscribers.", lambda: hub.delivered, counts=True
        ),
        Gauge("broker_backlog_bytes", "Delivered, not yet written.", lambda: hub.backlog),
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
            "Watched topics read anew from the store, since something was missed.",
            lambda: store.stats.repairs,
            counts=True,
        ),
        Gauge(
            "broker_store_lag_seconds",
            "From saying something through the store to hearing it.",
            lambda: store.stats.lag_seconds,
        ),
    ]
