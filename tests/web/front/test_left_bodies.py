"""Bytes that a client leaves behind while its publish waits are bounded."""

from __future__ import annotations

import socket
from functools import partial

import pytest

from broker.web.front.exchange import HIGH_WATER_BYTES, Exchange
from tests.support.http import NDJSON, RESET_ON_CLOSE, chunked, close, request
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until

MAX_BYTES = 1 << 20
REST = b"\n" * (HIGH_WATER_BYTES - 8000)
"""It doesn't stop the reading, so that the end of the connection is seen."""
LINE = b'{"data": "x"}\n'
CHUNKED = request("POST", "/topics/news", NDJSON, "Transfer-Encoding: chunked") + chunked(LINE, end=b"")


async def fill(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    monkeypatch.setattr(server.node.streams.hub.fan_out, "_turn", lambda: None)  # nothing is written any more
    for _ in range(5):
        await server.publish("news", "x" * 250_000)


async def newest(server: Server) -> list[str]:
    """The data of the two newest events."""
    answer = await server.request("GET", "/topics/news/events?last=2")
    return [event["data"] for event in answer.json()["events"]]


async def leave(server: Server, head: bytes, rest: bytes) -> Exchange:
    """Send `rest` once the events of `head` wait, and then reset the connection. Returns the request."""
    queued, connections = server.node._backpressure.queued, server.front.connections
    before, others = queued.get("news", 0), set(connections)
    _, writer = await server.send(head)
    await until(lambda: queued.get("news", 0) > before, "its first event waits")
    (connection,) = connections - others
    writer.write(rest)
    await writer.drain()
    exchange = connection._current
    assert exchange is not None
    held = partial(getattr, exchange, "held_bytes")
    await until(lambda: held() >= len(REST), "the rest has arrived")
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    await close(writer)
    await until(lambda: connection not in connections, "its end is seen")
    return exchange


@pytest.mark.uncompiled
@pytest.mark.parametrize("is_complete", [False, True])
async def test_i4_what_cut_bodies_leave_behind_is_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    server = await serve()
    await fill(server, monkeypatch)
    limits = server.services.bodies.limits
    monkeypatch.setattr(limits, "_max_bytes", MAX_BYTES)
    end = b"0\r\n\r\n" if is_complete else b""
    left = [await leave(server, CHUNKED, chunked(REST, end=end)) for _ in range(40)]
    assert 0.9 * MAX_BYTES < sum(one.held_bytes for one in left) <= limits.held_bytes <= MAX_BYTES
    server.node.streams.cut()
    await until(lambda: not (limits.count or limits.held_bytes), "all is published")
    assert not any(one.held_bytes for one in left)
    assert (await newest(server))[-1] == "x"


@pytest.mark.uncompiled
async def test_what_a_client_has_sent_before_it_left_is_published(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve()
    await fill(server, monkeypatch)
    await leave(server, CHUNKED, chunked(REST, b'{"data": "last"}\n', end=b""))
    server.node.streams.cut()
    limits = server.services.bodies.limits
    await until(lambda: not (limits.count or limits.held_bytes), "all is published")
    assert await newest(server) == ["x", "last"]


@pytest.mark.uncompiled
async def test_a_complete_body_that_was_dropped_does_not_end_cleanly(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its topic stays open, for not all of its events are published."""
    server = await serve()
    await fill(server, monkeypatch)
    limits = server.services.bodies.limits
    monkeypatch.setattr(limits, "_max_bytes", 10_000)
    head = CHUNKED.replace(b"/topics/news", b"/topics/news?end=true")
    await leave(server, head, chunked(REST, b'{"data": "last"}\n'))
    server.node.streams.cut()
    await until(lambda: not (limits.count or limits.held_bytes), "all is published")
    assert (await newest(server))[-1] == "x"
    assert (await server.request("POST", "/topics/news", b"open")).status == 201
