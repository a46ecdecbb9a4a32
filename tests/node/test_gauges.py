"""Which number stands under which metric."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from broker import sse
from broker.fanout.subscriber import Lag
from broker.node.gauges import NodeGauges
from broker.stores.base import Store, StoreStats
from tests.support.hub_harness import HubHarness


async def test_each_metric_has_the_number_of_its_name(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(3)]
    harness.publish("a", b"to three")
    harness.run()
    subscribers[0].lag = Lag(harness.now)
    backlog = sum(
        len(sse.frame(sse.lines(b"on its way"), harness.publish("a", b"on its way"))) for _ in range(2)
    )
    stats = StoreStats(
        log_bytes=5,
        topics=6,
        connected=False,
        connections=7,
        repairs=8,
        lag_seconds=0.5,
        memory_bytes=10,
        memory_limit_bytes=11,
    )
    gauges = NodeGauges(harness.hub, cast("Store", SimpleNamespace(stats=stats)))
    assert {sample.name: sample.value for family in gauges.collect() for sample in family.samples} == {
        "broker_subscribers": 3,
        "broker_lagging_subscribers": 1,
        "broker_delivered_events_total": 3,
        "broker_backlog_bytes": backlog,
        "broker_log_bytes": 5,
        "broker_topics": 6,
        "broker_store_connected": 0,
        "broker_store_connections_total": 7,
        "broker_store_mended_topics_total": 8,
        "broker_store_lag_seconds": 0.5,
        "broker_store_memory_bytes": 10,
        "broker_store_memory_limit_bytes": 11,
    }
