"""How streams begin and end on an instance."""

from __future__ import annotations

import asyncio
import re

import pytest

from broker import sse
from broker.errors import Overloaded, Unavailable
from broker.node.node import Node
from tests.node.conftest import OpenStream
from tests.support.local_broker import Serve
from tests.support.waiting import WAIT_SECONDS, until


async def test_a_full_instance_takes_no_further_stream(node: Node, open_stream: OpenStream) -> None:
    for _ in range(2):
        node.streams.check_room()
        await open_stream()
    with pytest.raises(Overloaded):
        node.streams.check_room()


async def test_i8_a_drain_ends_each_stream_with_its_own_delay_after_all_its_events(
    node: Node, open_stream: OpenStream
) -> None:
    clients = [await open_stream() for _ in range(2)]
    await node.publish([("a", sse.lines(b"1"))])
    draining = asyncio.ensure_future(node.streams.drain())
    received = [b"", b""]
    async with asyncio.timeout(WAIT_SECONDS):
        while not (draining.done() and all(data.endswith(b"\n") and b"retry" in data for data in received)):
            received = [data + client.read() for data, client in zip(received, clients, strict=True)]
            await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        node.streams.check_room()
    assert len(node.streams) == 0
    for data in received:
        assert re.fullmatch(rb"data: 1\nid: [0-9]+-[0-9]+\n\nretry: [2-5][0-9]{3}\n", data)
    assert node.metrics.registry.get_sample_value("broker_closes_total", {"reason": "draining"}) == 2


async def test_a_drain_ends_once_all_clients_have_left(serve: Serve) -> None:
    server = await serve(drain_seconds=100 * WAIT_SECONDS, drain_notice_seconds=0)
    streams = [await server.subscribe("/topics/a") for _ in range(3)]
    async with asyncio.timeout(WAIT_SECONDS):
        draining = asyncio.ensure_future(server.node.streams.drain())
        await until(lambda: server.node.streams.is_draining, "the drain has begun")
        for stream in streams:
            await stream.close()
        await draining
    assert len(server.node.streams) == 0
