"""The front's duties under HTTP (RFC 9110, RFC 9112): framing, heads, bodies, refusals."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker.web.front.chunks import MAX_EXCESS_BYTES
from broker.web.front.connection import SLICE_BYTES
from broker.web.front.exchange import HIGH_WATER_BYTES
from broker.web.front.known_heads import KnownHeads
from broker.web.front.parser import RequestParser
from tests.support.distant_store import keep_at_a_distance
from tests.support.http import Answer, chunked, read_answer, read_head
from tests.support.local_broker import Serve, Server
from tests.support.waiting import WAIT_SECONDS, until

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def answers(server: Server, sent: bytes, count: int = 1) -> list[Answer]:
    """The next answers to `sent` on a new connection."""
    reader, _ = await server.send(sent)
    return [await read_answer(reader, (b"HTTP/1.1", b"HTTP/1.0")) for _ in range(count)]


async def ended(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(WAIT_SECONDS):
        return await reader.read()


async def events(server: Server, topic: str = "news") -> int:
    answer = await server.request("GET", f"/topics/{topic}", accept="application/json")
    return int(answer.json()["events"])


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"Content-Length: 3, 3\r\n\r\nabc",
        b"Content-Length: +3\r\n\r\nabc",
        b"Content-Length: 3\r\nHost: other\r\n\r\nabc",
        b"Content-Length: 3\r\nX: a\r\n b\r\n\r\nabc",
        b"Content-Length: 3\n\r\nabc",
        b"Content-Length: 3\r\n\nabc",
        b"Content-Length : 3\r\n\r\nabc",
        b"Content-Length: 3\r\nX: a\rb\r\n\r\nabc",
        b"Content-Length: 3\r\nX: a\0b\r\n\r\nabc",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    ],
)
async def test_ambiguous_framing_is_refused(server: Server, head: bytes) -> None:
    """Whatever else is on the connection is not taken for a request."""
    reader, _ = await server.send(POST + head + GET)
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert await ended(reader) == b""
    assert await events(server) == 0


async def test_a_head_may_have_max_head_bytes(server: Server) -> None:
    most = server.front.max_head_bytes
    fits = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n"
    (answer,) = await answers(server, fits % (b"x" * (most - len(fits))))
    assert answer.status == 200
    for too_long in (
        fits % (b"x" * most),
        fits % (b"x" * 100_000),
        b"GET /" + b"x" * most,
        b"GET /healthz HTTP/1.1\r\nX: " + b"x" * most,
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * most,
    ):
        (answer,) = await answers(server, too_long)
        assert (answer.status, answer.headers["connection"]) == (400, "close")


async def test_a_head_may_have_128_headers(server: Server) -> None:
    for count, status in ((100, 200), (200, 400)):
        lines = b"".join(b"X-%d: y\r\n" % number for number in range(count))
        assert [a.status for a in await answers(server, GET[:-2] + lines + b"\r\n")] == [status]
        assert [a.status for a in await answers(server, GET[:-2] + b"X: y\r\n" * count + b"\r\n")] == [status]


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"x" * 64, b"0\r\nX-Trailer: " + b"x" * 64, b"0\r\n" + b"X: y\r\n" * 64],
)
async def test_chunk_extensions_and_trailers_are_bounded(server: Server, endless: bytes) -> None:
    begun, more = endless[:2], endless[2:]
    reader, writer = await server.send(CHUNKED + begun)
    for _ in range(2 + 8 * MAX_EXCESS_BYTES // len(more)):
        writer.write(more)
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-body")


async def test_small_chunks_extensions_and_trailers_are_accepted(server: Server) -> None:
    body = b"1;a=b\r\nx\r\n" * 5000 + b"0\r\nX-Checksum: 1\r\n\r\n"
    first, second = await answers(server, CHUNKED + body + GET, 2)
    assert (first.status, second.status) == (201, 200)
    stream = await server.subscribe("/topics/news?since=earliest")
    assert await stream.data(1) == ["x" * 5000]


async def test_100_continue_comes_when_the_body_is_wanted(server: Server) -> None:
    reader, writer = await server.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    async with asyncio.timeout(WAIT_SECONDS):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert (await read_answer(reader)).status == 201


async def test_100_continue_comes_once(server: Server) -> None:
    head = b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await server.send(POST + head)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    for piece in (b"o", b"k", b"!"):
        writer.write(chunked(piece, end=b""))
        await until(lambda: not writer.transport.get_write_buffer_size(), "it is sent")
        assert (await server.request("GET", "/healthz")).status == 200, "the piece has been read meanwhile"
    writer.write(b"0\r\n\r\n")
    assert (await read_answer(reader)).status == 201


async def test_a_refused_request_is_not_asked_for_its_body(server: Server) -> None:
    sent = (
        b"POST /topics/a..b HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    reader, _ = await server.send(sent)
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["connection"]) == (400, "close")


async def test_http_1_0_is_never_asked_for_its_body(server: Server) -> None:
    sent = b"POST /topics/news HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    reader, writer = await server.send(sent)
    await until(lambda: server.requesting == 1, "it is there")
    writer.write(b"ok")
    assert (await read_answer(reader, (b"HTTP/1.0",))).status == 201


@pytest.mark.parametrize(
    ("target", "topic"),
    [
        (b"http://localhost/topics/news?event=x", "news"),
        (b"HTTPS://localhost:1/topics/news", "news"),
        (b"/topics/%6eews", "news"),
        (b"/%74opics/news", "news"),
        (b"/topics/a%3Ab", "a:b"),
        (b"/topics/news#part", "news"),
    ],
)
async def test_forms_of_a_target(server: Server, target: bytes, topic: str) -> None:
    sent = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx" % target
    (answer,) = await answers(server, sent)
    assert (answer.status, answer.json()["topic"]) == (201, topic)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/topics/", 404),
        ("GET", "/topics/a/", 404),
        ("GET", "/topics/a/b", 404),
        ("GET", "//topics/a", 404),
        ("GET", "/topics/a%2Fb", 400),
        ("GET", "/topics/%", 400),
        ("GET", "/topics/%ff", 400),
        ("GET", "http://localhost", 200),
        ("GET", "http://localhost?x", 200),
        ("PUT", "/topics/a", 405),
        ("POST", "/healthz", 405),
        ("GET", "/topics/a/cancel", 405),
        ("OPTIONS", "*", 404),
    ],
)
async def test_targets_without_a_topic(server: Server, method: str, target: str, status: int) -> None:
    assert (await server.request(method, target)).status == status


async def test_connect_is_refused_and_the_connection_closed(server: Server) -> None:
    reader, _ = await server.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + GET)
    assert (await read_answer(reader)).status == 400
    assert await ended(reader) == b""


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("is_cut", [False, True])
async def test_an_upgrade_loses_no_request_behind_it(server: Server, is_cut: bool) -> None:
    first = POST + UPGRADE + b"Content-Length: 5\r\n\r\nfirst"
    second = POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"sec", b"ond")
    third = GET[:-2] + UPGRADE + b"\r\n"
    sent = first + second + third + GET
    reader, writer = await server.send(b"" if is_cut else sent)
    if is_cut:
        for index in range(len(sent)):
            writer.write(sent[index : index + 1])
            await asyncio.sleep(0)
    assert [(await read_answer(reader)).status for _ in range(4)] == [201, 201, 200, 200]
    stream = await server.subscribe("/topics/news?since=earliest")
    assert await stream.data(2) == ["first", "second"]


@pytest.mark.parametrize(
    "coding",
    [b"\xff, chunked", b"\xe2\x82, chunked", b"\xff", b"gzip", b"chunked\r\nTransfer-Encoding: gzip"],
)
async def test_an_upgrade_with_an_unknown_framing_is_refused(
    server: Server, coding: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (answer,) = await answers(
        server, POST + UPGRADE + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + chunked(b"x")
    )
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_answers_come_in_order_whichever_has_to_wait(server: Server) -> None:
    keep_at_a_distance(server.node, lambda: asyncio.sleep(0))
    one = POST + b"Content-Length: 1\r\n\r\nx"
    reader, _ = await server.send((one + GET) * 2000)
    statuses = [(await read_answer(reader)).status for _ in range(4000)]
    assert statuses == [201, 200] * 2000


def test_a_body_of_tiny_chunks_is_held_early() -> None:
    """A piece of one byte takes the memory of many, so pieces are counted too."""

    class Flow:
        is_held = False

        def hold_body(self, *, held: bool) -> None:
            self.is_held = held

        def coalesce(self, *, on: bool) -> None: ...
        def send_continue(self) -> None: ...

    flow, pieces = Flow(), 0
    parser = RequestParser(flow, 1000, KnownHeads())
    parser.feed(CHUNKED)
    while not flow.is_held:
        parser.feed(b"1\r\nx\r\n")
        pieces += 1
    assert pieces < 2000
    (exchange,) = parser.ready
    assert exchange.take() == b"x" * pieces
    assert not flow.is_held


async def test_connections_take_turns(server: Server) -> None:
    """Requests that arrive in one piece must not keep all other connections waiting until they are answered."""
    count = 200
    opened = [await server.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") for _ in "ab"]
    for reader, _ in opened:
        assert (await read_answer(reader)).status == 200
    for name, (_, writer) in zip("ab", opened, strict=True):
        request = f"POST /topics/news HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{name}"
        writer.write(request.encode() * count)
    for reader, _ in opened:
        for _ in range(count):
            assert (await read_answer(reader)).status == 201
    order = "".join(await (await server.subscribe("/topics/news?since=earliest")).data(2 * count))
    assert (order.count("a"), order.count("b")) == (count, count)
    assert order.index("b") < 40, "the second connection waited for the first one's requests"


async def test_a_client_that_half_closes_gets_all_answers_over_many_turns(server: Server) -> None:
    reader, writer = await server.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
    writer.write_eof()
    for _ in range(200):
        assert (await read_answer(reader)).status == 200
    assert await ended(reader) == b""


async def test_a_large_body_in_one_piece_with_requests_around_it(serve: Serve) -> None:
    server = await serve(max_event_bytes=1 << 20)
    large = POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    reader, _ = await server.send(GET + large + GET + large)
    assert [(await read_answer(reader)).status for _ in range(4)] == [200, 201, 200, 201]


async def test_no_answer_names_the_server(server: Server) -> None:
    for target in ("/healthz", "/nowhere", "/", "/metrics"):
        assert "server" not in (await server.request("GET", target)).headers
    reader, _ = await server.send(b"nonsense\r\n\r\n")
    _, headers = await read_head(reader)
    assert "server" not in headers


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
        POST + b"Content-Length: 10\r\n\r\n1",
        CHUNKED + b"5\r\nab",
        (POST + b"Content-Length: 1\r\n\r\nx") * 500,
        GET * 500,
        b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET * 10,
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_reset_connection_logs_nothing(
    server: Server, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(20):
        _, writer = await server.send(sent)
        writer.transport.abort()
    await until(lambda: server.requesting == 0 and not server.subscribers_of("news"), "all are gone")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_compressed_bodies_are_refused(server: Server) -> None:
    (answer,) = await answers(server, POST + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-body")


async def test_keep_alive_by_version(server: Server) -> None:
    for version, connection, is_kept in (
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ):
        one = b"GET /healthz HTTP/%b\r\nHost: localhost\r\n%b\r\n" % (version, connection)
        reader, writer = await server.send(one)
        assert (await read_answer(reader, (b"HTTP/" + version,))).status == 200
        if is_kept:
            writer.write(one)
            assert (await read_answer(reader, (b"HTTP/" + version,))).status == 200
        else:
            assert await ended(reader) == b""


async def test_a_body_is_read_no_faster_than_it_is_published(server: Server) -> None:
    """Back-pressure: what the handler leaves stays in the client's socket."""
    published = asyncio.Event()

    keep_at_a_distance(server.node, published.wait)
    reader, writer = await server.send(
        POST + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    line = b'{"data": "%b"}\n' % (b"x" * 10_000)
    sending = asyncio.ensure_future(_send_lines(writer, line, 5000))
    front = server.front
    await until(lambda: any(connection._holds_body for connection in front.connections), "it is held")
    (connection,) = front.connections
    assert connection._current is not None
    assert not connection._is_reading
    assert connection._current.held_bytes < HIGH_WATER_BYTES + 2 * SLICE_BYTES, (
        "not all of one read is parsed"
    )
    assert connection._current.held_bytes + len(connection._rest) < 1 << 20
    published.set()
    await sending
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["published"]) == (200, 5000)


async def _send_lines(writer: asyncio.StreamWriter, line: bytes, count: int) -> None:
    for _ in range(count):
        writer.write(chunked(line, end=b""))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
