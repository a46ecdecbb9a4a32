"""Health, readiness and metrics (contract §6)."""

from __future__ import annotations

import asyncio
import re

from tests.support.local_broker import Serve, Server
from tests.support.waiting import until


async def test_health_and_readiness(server: Server) -> None:
    assert (await server.request("GET", "/healthz")).status == 200
    answer = await server.request("GET", "/readyz")
    assert (answer.status, answer.json()["status"]) == (200, "ready")


async def test_readiness_fails_while_draining_and_browsers_reconnect_elsewhere(serve: Serve) -> None:
    server = await serve(drain_seconds=30, drain_notice_seconds=30)
    draining = asyncio.ensure_future(server.node.streams.drain())
    await until(lambda: server.node.streams.is_draining, "draining")
    answer = await server.request("GET", "/readyz")
    assert (answer.status, answer.json()["checks"]["accepting"]) == (503, "draining")
    browser = await server.subscribe("/topics/news")
    assert re.fullmatch(rb"retry: \d+\n", await browser.end())
    other = await server.request("GET", "/topics/news", accept="*/*")
    assert (other.status, other.json()["code"]) == (503, "unavailable")
    refused = server.node.metrics.registry.get_sample_value
    assert refused("broker_refused_connects_total", {"reason": "draining"}) == 2
    assert refused("broker_refused_connects_total", {"reason": "unavailable"}) == 0, "the store is well"
    kept = await server.request("POST", "/topics/news", b"x", connection="keep-alive")
    assert (kept.status, kept.headers.get("connection")) == (201, "close"), "the next request would be lost"
    draining.cancel()


async def test_metrics(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=1)  # aiohttp notices by it that a subscriber has left
    first = await server.subscribe("/topics/news")
    opening = await first.event(1)
    await server.publish("news", "1")
    await first.data(1)
    await first.close()
    resumed = await server.subscribe("/topics/news", last_event_id=opening.id)
    await resumed.data(1)
    lost = await server.subscribe("/topics/news", last_event_id="1-0")
    await lost.data(1)
    await until(
        lambda: b'broker_closes_total{reason="client"} 1.0' in server.node.metrics.text(), "one has left"
    )
    answer = await server.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    for line in (
        'broker_connects_total{kind="first"} 1.0',
        'broker_connects_total{kind="resume"} 2.0',
        'broker_closes_total{reason="client"} 1.0',
        'broker_gaps_total{reason="lost"} 1.0',
        "broker_connection_age_seconds_count 1.0",
        "broker_published_events_total 1.0",
        "broker_delivered_events_total 3.0",
        "broker_subscribers 2.0",
        "broker_lagging_subscribers 0.0",
        "broker_topics 1.0",
    ):
        assert line + "\n" in text
    assert "news" not in text  # a topic is never a label
