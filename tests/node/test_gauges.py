"""Which number stands under which metric."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from broker import sse
from broker.fanout.lag import Lag
from broker.metrics import Metrics
from broker.node.gauges import NodeGauges
from broker.stores.base import Store
from broker.stores.stats import StoreStats
from tests.support.hub_harness import HubHarness


async def test_each_metric_has_the_number_of_its_name(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(3)]
    harness.publish("a", b"to a crowd")
    harness.run()
    sent = len(harness.receive(subscribers[1], 1 << 16))
    assert await harness.subscribe("a", cursor=0), "one that replays"
    subscribers[0].lag = Lag(harness.now)
    harness.now += 14.5
    on_its_way = sum(
        len(sse.frame(sse.lines(b"on its way"), harness.publish("a", b"on its way"))) for _ in range(2)
    )
    stats = StoreStats(
        log_bytes=5,
        topics=6,
        log_limit_bytes=18,
        connected=False,
        connections=7,
        repairs=8,
        lag_seconds=0.5,
        memory_bytes=10,
        memory_limit_bytes=11,
    )
    stats.calls.retries.value, stats.calls.failures.value = 19, 20
    metrics = Metrics()
    metrics.loop_lag_max = 0.25
    streams = SimpleNamespace(hub=harness.hub, is_draining=True, max_connections=17)
    gauges = NodeGauges(streams, cast("Store", SimpleNamespace(stats=stats)), metrics)
    assert {s.name: s.value for family in gauges.collect() for s in family.samples if not s.labels} == {
        "broker_subscribers": 4,
        "broker_lagging_subscribers": 1,
        "broker_lagging_bytes": on_its_way,
        "broker_lagging_max_bytes": on_its_way,
        "broker_lagging_max_seconds": 14.5,
        "broker_delivered_events_total": 4,
        "broker_replayed_events_total": 1,
        "broker_stream_bytes_total": 4 * sent,
        "broker_backlog_bytes": on_its_way,
        "broker_draining": 1,
        "broker_workers": 0,
        "broker_max_subscribers": 17,
        "broker_log_limit_bytes": 18,
        "broker_store_retries_total": 19,
        "broker_store_failures_total": 20,
        "broker_loop_lag_max_seconds": 0.25,
        "broker_log_bytes": 5,
        "broker_topics": 6,
        "broker_store_connected": 0,
        "broker_store_connections_total": 7,
        "broker_store_mended_topics_total": 8,
        "broker_store_lag_seconds": 0.5,
        "broker_store_memory_bytes": 10,
        "broker_store_memory_limit_bytes": 11,
    }
