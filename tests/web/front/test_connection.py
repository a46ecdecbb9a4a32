"""Connections: time-outs, half-closed clients, malformed requests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket

import pytest
from aiohttp import web

from broker.process.app import create_app
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.front.connection import HttpConnection
from broker.web.front.exchange import Exchange
from broker.web.front.head import Head, RequestHeaders
from broker.web.front.parser import RequestParser
from broker.web.runner import Runner
from tests.support.distant_store import keep_at_a_distance
from tests.support.http import HOST, Answer, close, read_answer, read_head
from tests.support.local_broker import Serve, Server
from tests.support.waiting import WAIT_SECONDS, until

PARTS = {HttpConnection, RequestParser, Exchange, Head, RequestHeaders}
"""What a request connection is made of."""
BEGUN = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HEAD = b"POST /topics/news HTTP/1.1\r\nHost: 127.0.0.1\r\n"
NDJSON = "application/x-ndjson"
NDJSON_HEAD = b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


async def answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer: HTTP/1.0 if the request was incomplete."""
    return await read_answer(reader, (b"HTTP/1.1", b"HTTP/1.0"))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that still came."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await reader.read()


def cuts(server: Server, why: str) -> float:
    return server.node.metrics.registry.get_sample_value("broker_cut_requests_total", {"reason": why}) or 0


async def test_a_connection_that_sends_nothing_is_closed_without_an_answer(serve: Serve) -> None:
    server = await serve(head_seconds=0.1)
    reader, _ = await server.send(b"")
    assert await ended(reader) == b""
    assert cuts(server, "head") == 1


@pytest.mark.parametrize("begun", [b"G", BEGUN, BEGUN + b"x\r\n"])
async def test_a_slow_head_is_answered_with_400(serve: Serve, begun: bytes) -> None:
    server = await serve(head_seconds=0.1)
    reader, _ = await server.send(begun)
    told = await answer(reader)
    assert (told.status, told.json()["code"], told.headers["connection"]) == (
        400,
        "invalid-parameter",
        "close",
    )
    assert await ended(reader) == b""
    assert cuts(server, "head") == 1


async def test_a_head_byte_by_byte_is_slow_too(serve: Serve) -> None:
    server = await serve(head_seconds=0.1)
    reader, writer = await server.send(BEGUN)
    while cuts(server, "head") == 0:
        writer.write(b"x")
        await asyncio.sleep(0.01)
    assert (await answer(reader)).status == 400


async def test_the_second_head_has_the_same_limit(serve: Serve) -> None:
    server = await serve(head_seconds=0.1)
    reader, writer = await server.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await answer(reader)).status == 200
    writer.write(BEGUN)
    assert (await answer(reader)).status == 400
    assert await ended(reader) == b""


async def test_a_kept_connection_may_be_idle_for_longer_than_a_head_takes(serve: Serve) -> None:
    server = await serve(head_seconds=0.1)
    kept, writer = await server.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await answer(kept)).status == 200
    silent, _ = await server.send(b"")
    assert await ended(silent) == b"", "a later connection that sent nothing is gone"
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await answer(kept)).status == 200


async def test_streams_and_requests_in_progress_do_not_time_out(serve: Serve) -> None:
    server = await serve(head_seconds=0.1)
    stream = await server.subscribe("/topics/news")
    _, writer = await server.send(HEAD + NDJSON_HEAD)
    silent, _ = await server.send(b"")
    assert await ended(silent) == b""
    line = b'{"data": "late"}\n'
    writer.write(b"%x\r\n%b\r\n" % (len(line), line))
    assert await stream.data(1) == ["late"]
    assert cuts(server, "head") == 1


@pytest.mark.parametrize("sent", [b"", b"12345"])
async def test_a_slow_body_is_answered_with_400(serve: Serve, sent: bytes) -> None:
    server = await serve(body_seconds=0.1)
    reader, writer = await server.send(HEAD + b"Content-Length: 10\r\n\r\n" + sent)
    told = await answer(reader)
    assert (told.status, told.json()["code"], told.headers["connection"]) == (400, "invalid-body", "close")
    assert cuts(server, "body") == 1
    writer.write(b"1234567890"[len(sent) :])
    assert await ended(reader) == b""
    assert (await server.request("GET", "/topics/news?since=earliest", accept="application/json")).json()[
        "events"
    ] == 0


async def test_a_streamed_body_that_pauses_too_long_gets_the_count_of_events(serve: Serve) -> None:
    server = await serve(stream_idle_seconds=0.1)
    reader, _ = await server.send(HEAD + NDJSON_HEAD + b'10\r\n{"data": "one"}\n\r\n')
    told = await answer(reader)
    assert (told.status, told.json()["code"]) == (400, "invalid-body")
    assert (told.json()["line"], told.json()["published"]) == (2, 1)
    assert cuts(server, "pause") == 1


async def test_without_a_limit_a_streamed_body_may_pause_for_ever(serve: Serve) -> None:
    server = await serve(stream_idle_seconds=0, body_seconds=0.1, head_seconds=0.1)
    reader, writer = await server.send(HEAD + NDJSON_HEAD)
    other, _ = await server.send(HEAD + b"Content-Length: 10\r\n\r\n")
    assert (await answer(other)).status == 400
    writer.write(b'10\r\n{"data": "one"}\n\r\n0\r\n\r\n')
    told = await answer(reader)
    assert (told.status, json.loads(told.body)["published"]) == (200, 1)


async def test_closed_connections_are_not_counted(serve: Serve) -> None:
    server = await serve(head_seconds=0.1)

    def requests() -> float | None:
        return server.node.metrics.registry.get_sample_value("broker_request_connections")

    stream = await server.subscribe("/topics/news")
    _, writer = await server.send(BEGUN)
    await until(lambda: requests() == 1, "the head that began")
    await close(writer)
    await until(lambda: requests() == 0, "it to be gone; a stream is none")
    await server.publish("news", "1")
    assert await stream.data(1) == ["1"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        BEGUN,
        HEAD + b"Content-Length: 10\r\n\r\n1",
        HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\n1",
    ],
)
async def test_a_connection_leaves_no_reference_cycle(serve: Serve, sent: bytes) -> None:
    server = await serve(head_seconds=0.1, body_seconds=0.1)
    gc.collect()
    gc.disable()
    try:
        reader, writer = await server.send(sent)
        await ended(reader)
        await close(writer)
        await until(
            lambda: server.node.metrics.registry.get_sample_value("broker_request_connections") == 0,
            "it to be gone",
        )
        kept = [thing for thing in gc.get_objects() if type(thing) in PARTS]
    finally:
        gc.enable()
    assert kept == []


async def test_the_rest_of_a_body_is_not_awaited_after_its_sender_has_left(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.web.front.lingering.SECONDS", 60)
    server = await serve()
    reader, writer = await server.send(
        b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n1"
    )
    assert (await answer(reader)).status == 404
    assert server.requesting == 1
    await close(writer)
    await until(lambda: server.requesting == 0, "the end of what served it")


async def test_answers_that_are_not_read_end_their_connection(serve: Serve) -> None:
    server = await serve(slow_seconds=0.2)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        await loop.sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30 * 30)
        await until(lambda: cuts(server, "answer") == 1, "the answer that is not taken")
        await until(
            lambda: server.node.metrics.registry.get_sample_value("broker_request_connections") == 0,
            "it to be gone",
        )


async def test_without_room_the_connection_that_has_waited_longest_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: 3)
    server = await serve()
    stream = await server.subscribe("/topics/news")
    silent, _ = await server.send(b"")
    _, writer = await server.send(HEAD + NDJSON_HEAD)
    await until(
        lambda: server.node.metrics.registry.get_sample_value("broker_request_connections") == 2,
        "both to be there",
    )
    answered = await server.request("GET", "/healthz")
    assert answered.status == 200
    assert await ended(silent) == b""
    assert cuts(server, "room") == 1
    writer.write(b'14\r\n{"data": "goes on"}\n\r\n')
    assert await stream.data(1) == ["goes on"]


async def test_answers_that_are_not_read_make_room_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: 20)
    server = await serve()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", server.port))
            await loop.sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        await until(lambda: cuts(server, "room") >= 10, "room")
        await until(lambda: server.unread == server.requesting, "all others to be stuck")
        assert (await server.request("GET", "/healthz")).status == 200
        assert server.requesting <= 20


async def test_bodies_that_do_not_come_make_room_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: 20)
    server = await serve()
    slow = [await server.send(HEAD + b"Content-Length: 2\r\n\r\n1") for _ in range(60)]
    assert (await server.request("GET", "/healthz")).status == 200
    assert cuts(server, "room") >= 40
    first, _ = slow[0]
    told = await answer(first)
    assert (told.status, told.json()["code"], told.headers["connection"]) == (503, "overloaded", "close")


async def test_malformed_requests(server: Server) -> None:
    for request in (
        b"\x16\x03\x01\x02\x00 hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n\r\n",
    ):
        reader, _writer = await server.send(request)
        status, headers = await read_head(reader, versions=(b"HTTP/1.0", b"HTTP/1.1"))
        assert (status, headers["connection"]) == (400, "close")
        assert headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize("target", ["/healthz", "/nowhere", "/topics/news"])
async def test_unknown_expectation(server: Server, target: str) -> None:
    answer = await server.request("GET", target, expect="miracles")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    assert answer.headers["connection"] == "close"


async def kept(server: Server, topic: str = "news") -> list[tuple[str | None, str]]:
    """What a topic has, as (type, data)."""
    stream = await server.subscribe(f"/topics/{topic}?since=earliest")
    state = (await server.request("GET", f"/topics/{topic}", accept="application/json")).json()
    await stream.until(lambda: len(stream.events) == state["events"])
    return [(event.type, event.data) for event in stream.events]


async def test_a_short_shutdown_waits_for_no_client_that_does_not_read() -> None:
    runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=10 * WAIT_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    front = runner.front
    assert front is not None
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2], limit=1024)
    sending = asyncio.ensure_future(
        send_all(writer, b"GET /page/page.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
    )
    await until(lambda: any(not one._is_writable for one in front.connections), "an answer that is not read")
    runner.shorten_shutdown()
    async with asyncio.timeout(WAIT_SECONDS):
        await runner.cleanup()
    with pytest.raises(ConnectionError):
        await sending
    del reader
    await close(writer)


async def send_all(writer: asyncio.StreamWriter, request: bytes) -> None:
    """Send requests until the connection fails."""
    while True:
        writer.write(request * 100)
        await writer.drain()


@pytest.mark.parametrize("count", [1, 5])
async def test_a_client_that_half_closes_after_whole_requests_is_answered(server: Server, count: int) -> None:
    reader, writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx" * count
    )
    writer.write_eof()
    async with asyncio.timeout(WAIT_SECONDS):
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 201 Created") == count
    assert len(await kept(server)) == count


@pytest.mark.parametrize("content_type", ["text/plain", NDJSON])
async def test_a_body_that_becomes_malformed(server: Server, content_type: str) -> None:
    reader, writer = await server.send(
        f"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
        + b'10\r\n{"data": "one"}\n\r\n'
    )
    if content_type == NDJSON:
        await (await server.subscribe("/topics/news?since=earliest")).data(1)
    front = server.front
    await until(lambda: any(c._current is not None for c in front.connections), "the handler reads the body")
    writer.write(b"ZZ\r\n")
    status, headers = await read_head(reader)
    assert (status, headers["connection"]) == (400, "close")
    problem = json.loads(await reader.readexactly(int(headers["content-length"])))
    assert problem["code"] == "invalid-body"
    assert problem.get("published") == (1 if content_type == NDJSON else None)


async def test_a_large_body_that_its_handler_leaves_does_not_hold_up_the_next_request(server: Server) -> None:
    """All of it has arrived before the answer, in chunks that take much memory. It stays unread, and the next request doesn't wait."""
    body = b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n"
    head = b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await server.send(head + body)
    assert (await read_answer(reader)).status == 404
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await read_answer(reader)).status == 200


async def test_unknown_transfer_coding(server: Server) -> None:
    reader, _ = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )
    status, headers = await read_head(reader)
    assert (status, headers["connection"]) == (400, "close")


async def test_an_answer_to_http_0_9_is_http_1_0(server: Server) -> None:
    reader, _ = await server.send(b"GET /healthz HTTP/0.9\r\nHost: localhost\r\n\r\n")
    status, headers = await read_head(reader, versions=(b"HTTP/1.0",))
    assert (status, headers["connection"]) == (400, "close")


async def test_a_short_shutdown_waits_for_no_handler() -> None:
    runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=10 * WAIT_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    handler_runs = asyncio.Event()

    async def for_ever() -> None:
        handler_runs.set()
        await asyncio.Event().wait()

    keep_at_a_distance(runner.app[SERVICES].node, for_ever)
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(HEAD + b"Content-Length: 1\r\n\r\n1")
    async with asyncio.timeout(WAIT_SECONDS):
        await handler_runs.wait()
        runner.shorten_shutdown()
        await runner.cleanup()
        assert await reader.read() == b""
    await close(writer)
