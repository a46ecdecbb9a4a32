"""TLS handshakes count as request connections from accept on, with the time of a head; what TLS holds is bounded and counted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from broker import sse
from broker.process.app import create_app
from broker.settings import Settings
from broker.stores.base import NO_OPTIONS
from broker.web.aiohttp_adapter import SERVICES
from broker.web.front.lingering import MAX_BYTES
from broker.web.front.tls_output import RECORD_BYTES
from broker.web.front.tls_transport import SESSION_BYTES, TlsTransport
from broker.web.runner import Runner
from tests.support.distant_store import keep_at_a_distance
from tests.support.http import HOST, chunked, close, read_answer
from tests.support.raw_client import RawClient
from tests.support.tls import listen_securely, tls_contexts
from tests.support.waiting import WAIT_SECONDS, until

CONTEXT, TRUSTING = tls_contexts()
NDJSON_HEAD = (
    b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LINES = chunked(b'{"data": "%b"}\n' % (b"x" * 50) * 1024, end=b"")
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def runner(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[Runner]:
    """With `head_seconds` where the test gives them."""
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: 10)
    settings = Settings(head_seconds=request.param) if hasattr(request, "param") else Settings()
    made = Runner(create_app(settings), access_log=None, shutdown_timeout=1)
    await made.setup()
    yield made
    await made.cleanup()


@pytest.fixture
async def patient() -> AsyncIterator[Runner]:
    """One whose limits of time play no part."""
    made = Runner(create_app(Settings()), access_log=None, shutdown_timeout=1)
    await made.setup()
    yield made
    await made.cleanup()


@pytest.fixture(params=[False, True], ids=["with epoll", "transports of the loop"])
async def port(runner: Runner, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    listening, found = await listen_securely(runner, CONTEXT, with_transports_of_the_loop=request.param)
    yield found
    listening.close()


def value(runner: Runner, name: str, **labels: str) -> float:
    return runner.app[SERVICES].node.metrics.registry.get_sample_value(name, labels) or 0


@pytest.mark.parametrize("runner", [3], indirect=True)  # enough for an honest handshake on a busy machine
async def test_silent_connections_do_not_keep_others_out(runner: Runner, port: int) -> None:
    silent = [await asyncio.open_connection(HOST, port) for _ in range(30)]
    reader, writer = await asyncio.open_connection("localhost", port, ssl=TRUSTING)
    writer.write(GET)
    assert (await read_answer(reader)).status == 200
    assert value(runner, "broker_cut_requests_total", reason="room") > 0
    await close(writer)
    for reader, writer in silent:
        async with asyncio.timeout(WAIT_SECONDS):
            assert await reader.read() == b""
        await close(writer)
    await until(lambda: value(runner, "broker_request_connections") == 0, "all are gone")
    assert value(runner, "broker_cut_requests_total", reason="head") > 0


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", GET, b"\xff" * 100])
async def test_a_handshake_that_fails_leaves_nothing(runner: Runner, port: int, sent: bytes) -> None:
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(sent)
    await until(lambda: value(runner, "broker_request_connections") == 1 or sent, "it is there")
    writer.transport.abort()
    await until(lambda: value(runner, "broker_request_connections") == 0, "it is gone")
    assert runner.front is not None
    await until(lambda: runner.front is None or not runner.front.handshakes, "it is forgotten")
    assert not runner.front.unserved.bytes


@pytest.mark.parametrize("runner", [1], indirect=True)
@pytest.mark.parametrize("sent", [b"\x16\x03\x01", GET, b"\xff" * 100])
async def test_i4_a_handshake_that_fails_leaves_no_reference_cycle(
    runner: Runner, port: int, sent: bytes
) -> None:
    """Each left 50 KB to the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await close(writer)
        assert runner.front is not None
        front = runner.front
        await until(lambda: not front.timeouts.count and not front._tasks, "it is gone")
        assert [thing for thing in gc.get_objects() if isinstance(thing, TlsTransport)] == []
    finally:
        gc.enable()


async def test_requests_may_come_with_the_end_of_the_handshake(runner: Runner, port: int) -> None:
    await send_with_the_end_of_the_handshake(port)


def test_requests_may_come_with_the_end_of_the_handshake_in_asyncios_loop() -> None:
    async def serve() -> None:
        made = Runner(create_app(Settings()), access_log=None)
        await made.setup()
        listening, port = await listen_securely(made, CONTEXT)
        try:
            await send_with_the_end_of_the_handshake(port)
        finally:
            listening.close()
            await made.cleanup()

    asyncio.run(serve())


async def send_with_the_end_of_the_handshake(port: int, requests: int = 3) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = TRUSTING.wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await asyncio.open_connection(HOST, port)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            arrived = await reader.read(1 << 16)
            assert arrived, "closed within the handshake"
            incoming.write(arrived)
    client.write(GET * requests)
    writer.write(outgoing.read())  # the client's Finished, and its requests
    answers = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while answers.count(b"HTTP/1.1 200 OK") < requests:
            arrived = await reader.read(1 << 16)
            assert arrived, "closed too early"
            incoming.write(arrived)
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    answers += client.read(1 << 16)
    await close(writer)


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_i4_what_comes_while_nothing_is_read_is_bounded_and_counted(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The loop's TLS kept 256 KiB and more of it, which no limit counted."""

    async def attack() -> None:
        made = Runner(create_app(Settings()), access_log=None)
        await made.setup()
        assert made.front is not None
        unserved, may_go_on = made.front.unserved, asyncio.Event()
        keep_at_a_distance(made.app[SERVICES].node, may_go_on.wait)
        listening, port = await listen_securely(made, CONTEXT)
        async with RawClient(port, TRUSTING, send_buffer=64 << 10) as client:
            sending = asyncio.ensure_future(client.send(NDJSON_HEAD + LINES * 50 + b"0\r\n\r\n"))
            await until(lambda: unserved.bytes > 1 << 16, "it is counted")
            (connection,) = made.front.connections
            transport = connection._transport
            assert isinstance(transport, TlsTransport)
            await until(lambda: not transport._raw.is_reading(), "nothing more is read")
            most = 256 << 10  # one read of asyncio's loop
            assert not sending.done() and transport.held_bytes <= most
            assert unserved.bytes >= transport.held_bytes
            may_go_on.set()
            await sending
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += await client.read()
            assert b'"published": 51200' in answer
            await until(lambda: not unserved.bytes, "nothing is counted any more")
        listening.close()
        await made.cleanup()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(attack())


class Client:
    """A client of TLS whose records are sent as the test wants."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = TRUSTING.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def connect(self, port: int) -> None:
        self.reader, self.writer = await asyncio.open_connection(HOST, port)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self.outgoing.read())
                arrived = await self.reader.read(1 << 16)
                assert arrived, "closed too early"
                self.incoming.write(arrived)
        self.writer.write(self.outgoing.read())

    def records(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()


async def test_i4_an_incomplete_record_is_counted(patient: Runner) -> None:
    """OpenSSL kept 16 KB of each such connection, and nothing counted them."""
    assert patient.front is not None
    unserved = patient.front.unserved
    listening, port = await listen_securely(patient, CONTEXT)
    client = Client()
    await client.connect(port)
    await until(
        lambda: value(patient, "broker_request_connections") == 1 and not unserved.bytes, "it is open"
    )
    record = client.records(GET + b"x" * (RECORD_BYTES - len(GET)))
    client.writer.write(record[:-100])
    await until(lambda: unserved.bytes > SESSION_BYTES + RECORD_BYTES - 200, "it is counted")
    client.writer.write(record[-100:])
    await until(lambda: unserved.bytes <= RECORD_BYTES, "it is decrypted")
    await close(client.writer)
    await until(lambda: not unserved.bytes and not len(unserved), "nothing is counted any more")
    listening.close()


async def test_i4_connections_that_hold_incomplete_records_make_room(patient: Runner) -> None:
    assert patient.front is not None
    unserved = patient.front.unserved
    listening, port = await listen_securely(patient, CONTEXT)
    unserved.max_bytes = 3 * (SESSION_BYTES + 2 * RECORD_BYTES)
    clients = [Client() for _ in range(6)]
    for client in clients:
        await client.connect(port)
        client.writer.write(client.records(b"x" * RECORD_BYTES)[:-100])
        await until(lambda: unserved.bytes and len(unserved) <= 3, "the oldest made room")
        assert unserved.bytes <= unserved.max_bytes
    await until(
        lambda: value(patient, "broker_cut_requests_total", reason="memory") == 3, "three were cut", 20
    )
    for client in clients:
        await close(client.writer)
    listening.close()


async def test_a_client_that_speaks_http_without_tls_is_told(runner: Runner, port: int) -> None:
    """The connection was closed without a word: "Server disconnected"."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(
        b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    )
    answer = await read_answer(reader)
    assert answer.status == 400
    assert answer.json()["detail"] == "This port speaks TLS; use https:// in the URL."
    assert await reader.read() == b""
    await close(writer)
    await until(lambda: value(runner, "broker_request_connections") == 0, "it is gone")


@pytest.mark.parametrize("size", [1, 16 << 10, (16 << 10) + 1, 200_000])
async def test_answers_and_bodies_of_any_size_pass(runner: Runner, port: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=TRUSTING)
    data = b"x" * size
    writer.write(b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (size, data))
    assert (await read_answer(reader)).status == 201
    writer.write(b"GET /topics/a/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await read_answer(reader)
    assert answer.json()["events"][0]["data"] == data.decode()
    await close(writer)


async def test_i4_an_answer_that_is_not_read_is_noticed_under_tls(runner: Runner) -> None:
    """TLS took 1 MB at once and reported nothing left: no limit on unread answers counted it, nor did a time-out end it."""
    listening, port = await listen_securely(runner, CONTEXT)
    services = runner.app[SERVICES]
    for _ in range(4):
        await services.node.publish([("big", sse.lines(b"x" * 200_000))], None, NO_OPTIONS)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((HOST, port))
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=TRUSTING, server_hostname="localhost", limit=1000
    )
    writer.write(b"GET /topics/big/events HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
    assert runner.front is not None
    await until(lambda: services.unread_answers.of(HOST) > 0, "it is noticed")
    answer = await read_answer(reader)
    assert len(answer.json()["events"]) == 4
    assert (await read_answer(reader)).status == 200
    await until(lambda: services.unread_answers.bytes == 0, "it has been read")
    await close(writer)
    listening.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_is_lost_while_its_last_answer_is_made_is_gone(
    runner: Runner, port: int, turns: int
) -> None:
    """The connection learned of the loss; its successor, which waits until the last answer is read, did not, and was counted for ever."""
    calls, may_go_on = 0, asyncio.Event()

    async def travel() -> None:
        nonlocal calls
        calls += 1
        await may_go_on.wait()

    assert runner.front is not None
    front = runner.front
    keep_at_a_distance(runner.app[SERVICES].node, travel)
    _, writer = await asyncio.open_connection("localhost", port, ssl=TRUSTING)
    writer.write(
        b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
    )
    await until(lambda: calls, "it is published")
    (connection,) = front.connections
    assert connection._transport is not None
    connection._transport.abort()
    for _ in range(turns):
        await asyncio.sleep(0)
    may_go_on.set()
    await until(lambda: not front.connections and not front.lingering, "it is gone")
    assert front.timeouts.count == 0
    await close(writer)


async def test_a_client_that_goes_on_sending_behind_the_end_is_cut(patient: Runner) -> None:
    """It could send for as long as it liked, hundreds of megabytes: what came behind the end was dropped, and not counted."""
    assert patient.front is not None
    front = patient.front
    listening, port = await listen_securely(patient, CONTEXT)
    reader, writer = await asyncio.open_connection("localhost", port, ssl=TRUSTING)
    writer.write(GET)
    assert (await read_answer(reader)).status == 200
    (connection,) = front.connections
    transport = connection._transport
    assert isinstance(transport, TlsTransport)
    transport.close()
    transport.data_received(b"x" * MAX_BYTES)
    assert not transport._raw.is_closing()
    transport.data_received(b"x")
    assert transport._raw.is_closing()
    await until(lambda: not front.connections, "it is gone")
    await close(writer)
    listening.close()
