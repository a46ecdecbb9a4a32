"""Runs against a small SSE server of the test's own: counts and errors, never timings."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from broker.bench import Load, Result, measure, stamps
from broker.bench.report import text
from tests.bench.small_server import SmallServer


async def measured(**fields: Any) -> Result:
    return await asyncio.to_thread(measure, Load(**fields))


async def test_every_delivery_is_counted(small: SmallServer, url: str) -> None:
    result = await measured(url=url, subscribers=30, rate=40.0, duration=0.5, server_pid=os.getpid())
    assert result.connects.connected == 30
    assert result.publishing is not None
    assert result.publishing.published > 0
    assert result.publishing.failed == 0
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected == 30 * result.publishing.published
    assert result.delivering.latency.count == result.delivering.delivered
    assert result.delivering.latency.max >= result.delivering.latency.p50 > 0
    assert result.cost is not None
    assert result.cost.cpu_us_per_delivery is not None
    assert [warning for warning in result.warnings() if "load generator" not in warning] == []
    assert "delivered" in text(result)


async def test_subscribers_and_events_spread_over_topics(small: SmallServer, url: str) -> None:
    result = await measured(url=url, subscribers=10, topics=4, rate=0.0, publishers=3, duration=0.3)
    assert sorted(len(there) for topic, there in small.subscribers.items()) == [2, 2, 3, 3]
    assert result.publishing is not None
    assert result.delivering is not None
    assert result.publishing.published >= 4
    assert result.delivering.delivered == result.delivering.expected


async def test_more_than_one_process_counts_the_same(url: str) -> None:
    result = await measured(url=url, subscribers=11, processes=3, rate=20.0, duration=0.3)
    assert result.connects.connected == 11
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected > 0


async def test_reconnecting_subscribers_are_connected_when_all_is_replayed(
    small: SmallServer, url: str
) -> None:
    result = await measured(url=url, subscribers=12, connects=True, replay=25)
    assert result.connects.connected == 12
    assert result.connects.refused == 0
    cursors = {cursor: times for cursor, times in small.cursors.items() if cursor}
    assert list(cursors.values()) == [12]
    assert len(small.kept["t0"]) - int(next(iter(cursors))) == 25
    assert result.publishing is None
    assert result.delivering is None


async def test_without_subscribers_published_events_are_counted(small: SmallServer, url: str) -> None:
    result = await measured(url=url, subscribers=0, publishers=4, rate=0.0, duration=0.3)
    assert result.publishing is not None
    assert result.publishing.published == sum(not is_unstamped(event) for event in small.kept["t0"])
    assert result.publishing.latency.count == result.publishing.published
    assert result.delivering is None


def is_unstamped(event: bytes) -> bool:
    return event.startswith(b"data: " + stamps.stamp(0))


async def test_ndjson_counts_the_events_in_the_response(small: SmallServer, url: str) -> None:
    result = await measured(url=url, subscribers=2, rate=0.0, ndjson=True, duration=0.2, drain=30.0)
    assert result.publishing is not None
    assert result.publishing.published > 0
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected == 2 * result.publishing.published
    assert result.delivering.latency.count == 0


async def test_stuck_subscribers_are_connected_and_get_no_deliveries(small: SmallServer, url: str) -> None:
    result = await measured(url=url, subscribers=3, stuck=2, rate=20.0, duration=0.3, server_pid=os.getpid())
    assert result.connects.connected == 5
    assert len(small.subscribers["t0"]) == 5
    assert result.delivering is not None
    assert result.delivering.delivered == result.delivering.expected
    assert result.cost is not None
    assert result.cost.kb_per_stuck_reader is not None
    assert result.cost.resident_kb_per_subscriber is None
