"""Streams are chunked on HTTP/1.1, and the last chunk tells an end from a cut (contract §3)."""

from __future__ import annotations

import asyncio
import re

import pytest

from broker.fanout.chunks import as_chunk
from broker.fanout.close_reason import CloseReason
from tests.support.event_stream import AsyncStream
from tests.support.http import read_head
from tests.support.local_broker import Serve, Server
from tests.support.waiting import WAIT_SECONDS, until
from tests.web.streamed_body import close_topic

HTTP_1_0 = b"GET /topics/news HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"


async def old_stream(server: Server, request: bytes = HTTP_1_0) -> AsyncStream:
    """A stream that a client of HTTP/1.0 asked for."""
    stream = AsyncStream(*await server.send(request))
    await stream.until(lambda: stream.status)
    return stream


async def test_an_event_is_one_chunk_that_leaves_at_once(server: Server) -> None:
    reader, _ = await server.send(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _, headers = await read_head(reader)
    assert headers["transfer-encoding"] == "chunked"
    assert headers["connection"] == "close"
    assert "content-length" not in headers
    size = int(await reader.readuntil(b"\r\n"), 16)
    assert re.fullmatch(
        rb"retry: \d+\n:\nevent: broker.open\n.*\r\n", await reader.readexactly(size + 2), re.DOTALL
    )
    for data in ("one", "two"):
        event_id = await server.publish("news", data)
        chunk = as_chunk(f"data: {data}\nid: {event_id}\n\n".encode())
        assert await reader.readexactly(len(chunk)) == chunk


async def test_http_1_0_gets_neither_length_nor_chunks(server: Server) -> None:
    stream = await old_stream(server)
    assert "transfer-encoding" not in stream.headers
    assert "content-length" not in stream.headers
    event_id = await server.publish("news", "one")
    assert await stream.data(1) == ["one"]
    await close_topic(server, "news")
    assert f"\n\ndata: one\nid: {event_id}\n\nevent: broker.end\n".encode() in await stream.end()
    assert not stream.is_complete


async def test_the_refusal_of_an_event_source_is_a_whole_stream(serve: Serve) -> None:
    server = await serve(max_connections=1)
    first = await server.subscribe("/topics/news")
    await first.event(1)
    refused = await server.subscribe("/topics/news")
    assert (refused.headers["transfer-encoding"], refused.headers["connection"]) == ("chunked", "close")
    assert re.fullmatch(rb"retry: \d+\n", await refused.end())
    assert refused.is_complete
    old = await old_stream(server)
    assert "transfer-encoding" not in old.headers
    assert "content-length" not in old.headers
    assert re.fullmatch(rb"retry: \d+\n", await old.end())


async def test_head_and_204_have_no_body_and_no_coding(server: Server) -> None:
    await close_topic(server, "news", "1")
    stream = await server.subscribe("/topics/news?since=earliest")
    await stream.end()
    for method, target, status in (
        ("HEAD", "/topics/other", 200),
        ("GET", f"/topics/news?lastEventId={stream.events[-1].id}", 204),
        ("HEAD", f"/topics/news?lastEventId={stream.events[-1].id}", 204),
    ):
        reader, _ = await server.send(
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n".encode()
        )
        answered, headers = await read_head(reader)
        assert answered == status
        assert "transfer-encoding" not in headers
        assert "content-length" not in headers
        async with asyncio.timeout(WAIT_SECONDS):
            assert await reader.read() == b""


@pytest.mark.parametrize("how", ["topics ended", "drained", "too old", "disconnected"])
async def test_an_end_is_the_last_chunk(serve: Serve, how: str) -> None:
    server = await serve(max_age_seconds=0.5 if how == "too old" else 0, heartbeat_seconds=0.1)
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    if how == "topics ended":
        await close_topic(server, "news", "last words")
    elif how == "drained":
        await server.node.streams.drain()
    elif how == "disconnected":
        (subscriber,) = server.node.streams.hub.subscribers
        server.node.streams.end(subscriber, CloseReason.DISCONNECTED)
    await stream.end()
    assert stream.is_complete


async def test_a_cut_is_not_the_last_chunk(server: Server) -> None:
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    server.node.streams.cut()
    with pytest.raises(ConnectionResetError):
        await stream.end()
    assert not stream.is_complete


async def test_a_slow_reader_is_cut(serve: Serve) -> None:
    """It has not everything, so its stream doesn't look complete."""
    server = await serve(retention_events=2)
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    for _ in range(100):
        await server.publish("news", "x" * 100_000)
    slow = lambda: server.node.metrics.registry.get_sample_value("broker_closes_total", {"reason": "slow"})  # noqa: E731
    await stream.end()
    await until(slow, "it is closed as slow")
    assert not stream.is_complete
