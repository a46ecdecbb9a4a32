"""Streams in the front: how a request's connection becomes one, and what its client may do then."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from broker import sse
from broker.node.node import Node
from broker.process.app import create_app
from broker.process.listening import SEND_BUFFER_BYTES
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.runner import Runner
from tests.support.http import HOST, close, read_head
from tests.support.local_broker import Serve, Server
from tests.support.tls import listen_securely, tls_contexts
from tests.support.waiting import WAIT_SECONDS, until

STUCK_BUFFER_BYTES = 4096
"""SO_RCVBUF of a client that reads nothing."""


def subscribers(server: Server) -> int:
    return len(server.node.streams.hub)


async def test_nothing_is_left_of_the_request(server: Server) -> None:
    tasks = len(asyncio.all_tasks())
    streams = [await server.subscribe("/topics/news") for _ in range(10)]
    for stream in streams:
        await stream.event(1)
    assert server.requesting == 0
    assert len(asyncio.all_tasks()) == tasks
    assert subscribers(server) == 10


@pytest.fixture
async def logging_port(caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    """The port of a broker that writes its access log to `caplog`."""
    caplog.set_level(logging.INFO, "test.access")
    runner = Runner(create_app(Settings()), access_log=logging.getLogger("test.access"))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_access_log_gets_its_line(logging_port: int, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", logging_port)
    writer.write(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await read_head(reader))[0] == 200
    await until(lambda: '"GET /topics/news HTTP/1.1" 200' in caplog.text, "the line in the access log")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await close(writer)


async def test_a_client_that_left_before_its_answer_is_logged_as_499(
    logging_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", logging_port)
    writer.write(b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n1")
    writer.write_eof()
    await until(lambda: '"POST /topics/news HTTP/1.1" 499' in caplog.text, "the line in the access log")
    await close(writer)


async def test_a_peer_that_leaves_is_seen(server: Server) -> None:
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    await stream.close()
    await until(lambda: subscribers(server) == 0, "it is gone")


async def test_a_peer_that_half_closes_has_left(server: Server) -> None:
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    stream.writer.write_eof()
    await stream.end()
    await until(lambda: subscribers(server) == 0, "it is gone")


@pytest.mark.parametrize(
    "behind", [b"garbage \xff\r\n" * 2000, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300]
)
async def test_bytes_after_the_request_are_ignored_and_leaving_is_seen(server: Server, behind: bytes) -> None:
    reader, writer = await server.send(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await read_head(reader))[0] == 200
    writer.write(behind)
    await server.publish("news", "still there")
    await reader.readuntil(b"data: still there\n")
    writer.write(behind)
    await close(writer)
    await until(lambda: subscribers(server) == 0, "it is gone")


async def test_answers_to_requests_before_it_come_first(server: Server) -> None:
    requests = b"GET /topics?limit=1000 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n" * 20
    for number in range(200):
        await server.publish(f"some.longer.name.of.a.topic.{number}", "x")
    reader, writer = await server.send(requests + b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await server.publish("news", "1")
    for _ in range(20):
        status, headers = await read_head(reader)
        assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
        assert (await reader.readexactly(int(headers["content-length"]))).endswith(b"}")
    status, headers = await read_head(reader)
    assert headers["content-type"] == "text/event-stream"
    await reader.readline()  # the size of the first chunk
    assert (await reader.readline()).startswith(b"retry: ")
    await close(writer)


async def test_i4_the_kernels_buffer_is_bounded(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=7, slow_seconds=11)
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    (subscriber,) = server.node.streams.hub.subscribers
    sock = subscriber._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER_BYTES
    assert subscriber._transport.get_write_buffer_limits() == (0, 0)


async def test_i4_a_large_event_is_held_once_for_all_that_have_yet_to_read_it(server: Server) -> None:
    """Each line has `data: ` before it, so it takes 1.8 MB."""
    event, clients = b"\n" * (256 << 10), []
    request = f"GET /topics/news HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    for _ in range(30):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER_BYTES)
        client.connect((HOST, server.port))
        client.send(request)
        clients.append(client)
    await until(lambda: subscribers(server) == len(clients), "all are subscribed")
    tracemalloc.start()
    try:
        for behind in (b"a", event, b"b"):  # the second time while they lag
            assert (await server.request("POST", "/topics/news", event)).status == 201
            assert (await server.request("POST", "/topics/news", behind)).status == 201
            streams = server.node.streams.hub.subscribers
            await until(lambda: all(not each.is_flushed() for each in streams), "all lag")  # noqa: B023
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * 7 * len(event)
    for client in clients:
        client.close()


async def test_a_client_that_left_before_its_handler_ran_leaves_nothing(server: Server) -> None:
    for _ in range(50):
        reader, writer = await server.send(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.transport.abort()
        del reader
    await server.publish("other", "x")
    await until(
        lambda: subscribers(server) == 0 and not server.subscribers_of("news"), "no subscriber is left"
    )
    answer = await server.request("GET", "/topics", accept="application/json")
    assert [topic["topic"] for topic in answer.json()["topics"]] == ["other"]


async def test_a_client_that_half_closes_after_the_request_has_left(server: Server) -> None:
    for _ in range(20):
        reader, writer = await server.send(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 200 OK\r\n")
        await close(writer)
    await until(
        lambda: subscribers(server) == 0 and not server.subscribers_of("news"), "no subscriber is left"
    )


@pytest.mark.parametrize(
    "waits",
    [False, pytest.param(True, marks=pytest.mark.uncompiled)],
    ids=["served at once", "its handler waits"],
)
async def test_a_client_that_half_closes_behind_its_request_gets_what_is_there(
    server: Server, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is first, the end of its sending or the stream: it has left, and its stream ends, but with an answer."""
    await server.publish("news", "kept")
    served = asyncio.Event()
    watch = server.node.logs.watch

    async def watch_late(*args: Any, **options: Any) -> Any:
        await served.wait()
        return await watch(*args, **options)

    if waits:
        monkeypatch.setattr(server.node.logs, "watch", watch_late)
    reader, writer = await server.send(b"GET /topics/news?since=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n")
    writer.write_eof()
    if waits:
        await until(lambda: any(one.is_half_closed for one in server.front.connections), "its end to be seen")
    served.set()
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"data: kept\n" in answer
    assert not answer.endswith(b"0\r\n\r\n"), "the topic is open"
    await close(writer)
    await until(
        lambda: subscribers(server) == 0 and not server.subscribers_of("news"), "no subscriber is left"
    )


async def test_cleanup_does_not_wait_for_streams() -> None:
    runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=10 * WAIT_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await read_head(reader)
    node = runner.app[SERVICES].node
    async with asyncio.timeout(WAIT_SECONDS):
        await runner.cleanup()
    assert len(node.streams.hub) == 0
    await close(writer)


async def connect_securely(
    port: int, trusting: ssl.SSLContext, receive_buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client of TLS. Without a `receive_buffer` the kernel may keep tens of megabytes for a client that reads nothing."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
    return await asyncio.open_connection(sock=sock, ssl=trusting, server_hostname="localhost", limit=1 << 16)


async def test_tls_peers_that_reset_do_no_harm() -> None:
    context, trusting = tls_contexts()
    runner = Runner(create_app(Settings(heartbeat_seconds=0.1)), access_log=None)
    await runner.setup()
    listening, port = await listen_securely(runner, context)
    node = runner.app[SERVICES].node
    writers = []
    for _ in range(40):
        reader, writer = await connect_securely(port, trusting, STUCK_BUFFER_BYTES)
        writer.write(b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await read_head(reader)
        writers.append(writer)
    for _ in range(20):
        await node.publish([("news", sse.lines(b"x" * 200_000))])
    await until(lambda: node.streams.hub.lagging.number > 20, "many lag")
    for writer in writers:
        writer.transport.abort()
    async with asyncio.timeout(WAIT_SECONDS):
        while len(node.streams.hub):
            node.streams.hub.sweep()  # at every turn of the loop: also when a connection is half gone
            await asyncio.sleep(0)
    assert set(node.checks().values()) == {"ok"}
    await until(lambda: not node.streams.hub.fan_out.catch_up.queue, "no subscriber is behind")
    listening.close()
    await runner.cleanup()


async def test_tls() -> None:
    context, trusting = tls_contexts()
    settings = Settings(slow_seconds=15, retention_events=100_000, retention_bytes=50_000_000)
    runner = Runner(create_app(settings), access_log=None)
    await runner.setup()
    listening, port = await listen_securely(runner, context)
    node = runner.app[SERVICES].node

    async def subscribe(
        receive_buffer: int | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await connect_securely(port, trusting, receive_buffer)
        writer.write(b"GET /topics/news?since=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await read_head(reader))[0] == 200
        return reader, writer

    good, stuck = await subscribe(), await subscribe(STUCK_BUFFER_BYTES)
    sent = [str(number).zfill(50_000) for number in range(200)]
    publishing = asyncio.ensure_future(
        _publish_all(node, [("news", sse.lines(text.encode())) for text in sent])
    )
    got: list[str] = []
    while len(got) < len(sent):
        line = await asyncio.wait_for(good[0].readline(), WAIT_SECONDS)
        assert line, f"it ended after {len(got)}"
        if line.startswith(b"data: "):
            got.append(line[6:-1].decode())
    await publishing
    assert got == sent
    sweeper = node.streams.hub._sweeper
    sweeper._times = replace(sweeper._times, slow_seconds=1)  # the good one can't be slow any more
    closes = lambda: node.metrics.registry.get_sample_value("broker_closes_total", {"reason": "slow"})  # noqa: E731
    await until(closes, "the one that reads nothing is closed")
    await close(good[1])
    await until(lambda: len(node.streams.hub) == 0, "both are gone")
    stuck[1].transport.abort()
    listening.close()
    await runner.cleanup()


async def _publish_all(node: Node, items: list[tuple[str, bytes]]) -> None:
    for item in items:
        await node.publish([item])


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        ("1.1", "keep-alive", None),
        ("1.1", "close", "close"),
        ("1.0", "close", "close"),
        ("1.0", "keep-alive", "keep-alive"),
    ],
)
async def test_the_answer_to_a_publish_by_http_version(
    server: Server, version: str, connection: str, expected: str | None
) -> None:
    reader, _ = await server.send(
        f"POST /topics/news HTTP/{version}\r\nHost: localhost\r\nConnection: {connection}\r\nContent-Length: 1\r\n\r\nx".encode()
    )
    status, headers = await read_head(reader, versions=(f"HTTP/{version}".encode(),))
    assert status == 201
    assert headers.get("connection") == expected
    assert headers["content-type"] == "application/json"
    assert headers["date"].endswith(" GMT")
    assert json.loads(await reader.readexactly(int(headers["content-length"])))["topic"] == "news"


async def test_i4_a_client_that_does_not_read_gets_no_more_answers(server: Server) -> None:
    """Unread answers take no more than the transport's and the kernel's buffers."""
    request = b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    front = server.front
    with socket.socket() as publisher:
        publisher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        publisher.connect(("127.0.0.1", server.port))
        publisher.setblocking(False)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(publisher, request * 200_000))
        await until(
            lambda: any(not connection._is_writable for connection in front.connections), "it is held back"
        )
        (connection,) = front.connections
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 200_000
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER_BYTES
        sending.cancel()
        await asyncio.wait([sending])
