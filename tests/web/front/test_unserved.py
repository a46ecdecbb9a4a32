"""What connections have received and no handler has taken: bounded in all, and counted exactly."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.metrics import Metrics
from broker.web.connection_timeouts import TimeoutReason
from broker.web.front.unserved import UnservedBytes
from tests.support.distant_store import keep_at_a_distance
from tests.support.http import HOST, NDJSON, chunked, request
from tests.support.local_broker import Server
from tests.support.waiting import WAIT_SECONDS, until


class Holder:
    """A connection that counts how often it had to make room."""

    def __init__(self) -> None:
        self.cuts = 0

    def time_out(self, reason: TimeoutReason) -> None:
        assert reason is TimeoutReason.MEMORY
        self.cuts += 1


def test_the_one_without_progress_for_longest_makes_room() -> None:
    metrics = Metrics()
    unserved = UnservedBytes(metrics, max_bytes=100)
    first, second, third = Holder(), Holder(), Holder()
    unserved.hold(first, 40)
    unserved.hold(second, 30)
    unserved.hold(third, 30)
    unserved.hold(first, 39)  # it was served a little
    assert (unserved.bytes, len(unserved)) == (99, 3)
    unserved.hold(third, 50)
    assert (first.cuts, second.cuts, third.cuts) == (0, 1, 0)
    assert (unserved.bytes, len(unserved)) == (89, 2)
    unserved.hold(second, 0)  # it has ended
    unserved.hold(first, 0)
    unserved.hold(third, 0)
    assert (unserved.bytes, len(unserved)) == (0, 0)
    assert metrics.cut_requests.values["memory"] == 1


def test_one_alone_may_not_hold_more_than_the_limit_either() -> None:
    unserved, one = UnservedBytes(Metrics(), max_bytes=100), Holder()
    unserved.hold(one, 101)
    assert (one.cuts, unserved.bytes) == (1, 0)


PIPELINED = b"".join(request("GET", f"/{number}") for number in range(1000))
UNREAD = request("GET", "/client.js") * 8 + PIPELINED
"""More than the kernel's buffers take of answers, and requests behind them."""


def client(server: Server, data: bytes) -> socket.socket:
    """A client that sends as much of `data` as is taken, and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((HOST, server.port))
    sock.setblocking(False)
    sock.send(data)
    return sock


async def test_i4_pipelines_that_are_not_read_are_bounded_in_all(server: Server) -> None:
    """Each held 390 KB: 64 KiB of requests, of which some were parsed. There was no limit but that of descriptors."""
    unserved = server.front.unserved
    clients = [client(server, UNREAD)]
    await until(lambda: unserved.bytes > len(PIPELINED), "the first is held")
    one = unserved.bytes
    unserved.max_bytes = 4 * one
    for _ in range(12):
        clients.append(client(server, UNREAD))
        await until(lambda: server.front.timeouts.count >= min(len(clients), 4), "it is there")
        assert unserved.bytes <= unserved.max_bytes
    cut = server.node.metrics.cut_requests.values
    await until(lambda: cut["memory"] >= 8, "the oldest are cut")
    assert (await server.request("GET", "/healthz")).status == 200
    for sock in clients:
        sock.close()
    await until(lambda: not unserved.bytes and not len(unserved), "nothing is counted any more")


HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "
STREAMED = request("POST", "/topics/a", NDJSON, "Transfer-Encoding: chunked") + chunked(
    b'{"data": 1}\n', end=b""
)


class Travel:
    """The way to a store and back, which takes until the test says so; `calls` have begun."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_go_on = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        await self.may_go_on.wait()


@pytest.fixture
async def travel(server: Server) -> Travel:
    """The way to the server's store."""
    travel = Travel()
    keep_at_a_distance(server.node, travel)
    return travel


@pytest.mark.parametrize(
    ("first", "more", "last"),
    [
        (HEAD, b"y" * 6000, b"\r\n\r\n"),
        (STREAMED, chunked(b" " * 9000, end=b""), b"0\r\n\r\n"),
        (STREAMED, chunked(b" " * 90_000, end=b""), b"0\r\n\r\n"),
        (request("POST", "/topics/a", body=b"x"), PIPELINED, b""),
    ],
    ids=["a head", "a body", "a long body", "requests behind one"],
)
@pytest.mark.parametrize("is_served", [True, False])
async def test_what_a_connection_holds_is_counted_until_it_is_served(
    server: Server, travel: Travel, first: bytes, more: bytes, last: bytes, is_served: bool
) -> None:
    unserved = server.front.unserved
    reader, writer = await server.send(first)
    await until(lambda: travel.calls or unserved.bytes, "it has arrived")
    writer.write(more)
    await until(lambda: unserved.bytes >= 6000, "it is counted")
    if is_served:
        travel.may_go_on.set()
        writer.write(last)
        await reader.readuntil(b"\r\n\r\n")
    else:
        writer.close()
        travel.may_go_on.set()
    await until(lambda: not unserved.bytes and not len(unserved), "nothing is counted any more")


async def test_a_head_that_begins_with_the_end_of_a_request_is_counted(server: Server) -> None:
    """It counted as nothing: the count of a head's bytes began anew with the end of the request."""
    unserved = server.front.unserved
    reader, writer = await server.send(request("POST", "/topics/a", body=b"x") + HEAD + b"y" * 6000)
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: unserved.bytes >= 6000, "it is counted")
    writer.write(b"y" * 1000)
    await until(lambda: unserved.bytes >= 7000, "so are the bytes behind it")
    writer.write(b"\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: not unserved.bytes and not len(unserved), "nothing is counted any more")
    writer.close()


@pytest.mark.parametrize("size", [9000, 20_000, 40_000, 60_000, 90_000])
async def test_a_body_that_goes_on_is_counted_no_longer_once_its_bytes_are_taken(
    server: Server, travel: Travel, size: int
) -> None:
    """One of more than 16 KiB stayed counted, as without progress, and the connection was cut for the others' bytes."""
    unserved = server.front.unserved
    _, writer = await server.send(STREAMED)
    await until(lambda: travel.calls, "the first event is on its way")
    writer.write(chunked(b'{"data": "%b"}\n' % (b"x" * size), end=b""))
    await until(lambda: unserved.bytes >= min(size, 64 << 10), "the second is counted")
    travel.may_go_on.set()
    await until(lambda: travel.calls == 2, "the second is taken")
    await until(lambda: not unserved.bytes and not len(unserved), "nothing is counted any more")
    assert len(server.front.connections) == 1, "it goes on"
    writer.close()


async def test_nothing_is_counted_of_a_pipeline_that_ends_as_a_stream(server: Server) -> None:
    """The bytes behind the stream's request were counted after its end, for ever, and kept the connection in memory."""
    unserved, loop = server.front.unserved, asyncio.get_running_loop()
    script, stream = request("GET", "/client.js"), request("GET", "/topics/a")
    for known in (script, script, stream, stream):  # so that only the last head is llhttp's
        reader, writer = await server.send(known)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
    await until(lambda: not server.front.connections and not server.subscribers_of("a"), "they have ended")
    sock = client(server, script * 60 + stream + b"GET /topics/b HT")
    await until(lambda: server.unread, "its answers are not read")
    assert unserved.bytes
    async with asyncio.timeout(WAIT_SECONDS):
        while not server.subscribers_of("a"):
            assert await loop.sock_recv(sock, 1 << 16)
    await until(lambda: not unserved.bytes and not len(unserved), "all of it is served")
    sock.close()
    await until(lambda: not server.front.connections and not server.subscribers_of("a"), "it has ended")
    assert (unserved.bytes, len(unserved)) == (0, 0)


async def test_a_pipeline_that_is_served_steadily_makes_no_room(server: Server) -> None:
    """Its bytes were counted as without progress from its first request on, until its last was served."""
    unserved, places = server.front.unserved, asyncio.Semaphore(0)
    keep_at_a_distance(server.node, places.acquire)
    publish = request("POST", "/topics/a", body=b"x")
    reader, writer = await server.send(publish * 100)
    await until(lambda: unserved.bytes > 50_000, "requests wait")
    one = unserved.bytes
    waiting, its_writer = await server.send(HEAD + b"y" * 6000)
    await until(lambda: unserved.bytes > one, "a head that never ends")
    for _ in range(20):
        places.release()
        await reader.readuntil(b"\r\n\r\n")
    await until(lambda: unserved.bytes < one, "the served ones are counted no longer")
    unserved.max_bytes = unserved.bytes + 3000
    _, last_writer = await server.send(HEAD + b"y" * 6000)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await waiting.read() == b"", "the one that made no progress is cut"
        for _ in range(80):
            places.release()
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"201 Created" in head
    for each in (writer, its_writer, last_writer):
        each.close()


@pytest.mark.parametrize("count", [160, 171])
async def test_a_pipeline_whose_handlers_never_wait_is_counted_turn_by_turn(
    server: Server, count: int
) -> None:
    unserved, seen = server.front.unserved, []
    for _ in range(2):
        await server.request("GET", "/healthz")
    _, writer = await server.send(request("GET", "/healthz") * count)
    while not unserved.bytes:
        await asyncio.sleep(0)
    while unserved.bytes:
        seen.append(unserved.bytes)
        await asyncio.sleep(0)
    assert len(set(seen)) >= count // 16 - 2
    writer.close()
