"""A store and a hub, joined."""

from __future__ import annotations

import asyncio

import pytest

from broker import sse
from broker.fanout.backpressure import MAX_TOPIC_BYTES
from broker.log.log import Log
from broker.node.node import Node
from tests.node.conftest import OpenStream
from tests.support.waiting import WAIT_SECONDS


async def test_a_published_event_reaches_a_subscriber(node: Node, open_stream: OpenStream) -> None:
    client = await open_stream()
    receipt = await node.publish([("a", sse.lines(b"1"))])
    received = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while not received:
            received = client.read()
            await asyncio.sleep(0)
    assert received == sse.frame(sse.lines(b"1"), receipt.ids[0])
    assert node.metrics.registry.get_sample_value("broker_published_events_total") == 1


async def test_what_must_wait_is_not_published_at_once(node: Node, open_stream: OpenStream) -> None:
    client = await open_stream()
    await node.publish([("a", sse.lines(b"x" * (MAX_TOPIC_BYTES + 1)))])
    assert node.publish_at_once("a", [sse.lines(b"1")]) is None, "too much is on its way"
    receipt = await node.publish([("a", sse.lines(b"1"))])
    received = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while not received.endswith(sse.frame(sse.lines(b"1"), receipt.ids[0])):
            received += client.read()
            await asyncio.sleep(0)
    assert node.metrics.registry.get_sample_value("broker_published_events_total") == 2


@pytest.mark.uncompiled
@pytest.mark.parametrize("subscribers", [0, 1])
async def test_a_log_is_trimmed_once_for_each_event(
    node: Node, open_stream: OpenStream, monkeypatch: pytest.MonkeyPatch, subscribers: int
) -> None:
    clients = [await open_stream() for _ in range(subscribers)]
    trimmed: list[Log] = []
    trim = Log.trim

    def recording(log: Log, now: float) -> None:
        trimmed.append(log)
        trim(log, now)

    monkeypatch.setattr(Log, "trim", recording)
    await node.publish([("a", sse.lines(b"1"))])
    async with asyncio.timeout(WAIT_SECONDS):
        while not all(client.read() for client in clients):
            await asyncio.sleep(0)
    assert len(trimmed) == 1


@pytest.mark.uncompiled
async def test_a_node_whose_sweeps_have_died_is_not_ready(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(node.checks().values()) == {"ok"}
    monkeypatch.setattr(node._store, "sweep", lambda: 1 / 0)
    assert node._sweeping is not None
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.wait([node._sweeping])
    assert node.checks()["heartbeats"] == "stopped"
    assert "no longer ready" in caplog.text


@pytest.mark.uncompiled
async def test_a_node_whose_sweeps_have_died_stops_its_store(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node._store, "sweep", lambda: 1 / 0)
    assert node._sweeping is not None
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.wait([node._sweeping])
    stopped: list[bool] = []
    stop = node._store.stop

    async def recording() -> None:
        await stop()
        stopped.append(True)

    monkeypatch.setattr(node._store, "stop", recording)
    await node.stop()
    assert stopped == [True]


async def test_a_page_of_topics_names_where_the_next_one_begins(node: Node) -> None:
    for topic in ("a", "b", "c"):
        await node.publish([(topic, sse.lines(b"1"))])
    first, after = await node.list_topics("", 2)
    assert ([topic["topic"] for topic in first], after) == (["a", "b"], "b")
    rest, after = await node.list_topics("b", 2)
    assert ([topic["topic"] for topic in rest], after) == (["c"], None)
