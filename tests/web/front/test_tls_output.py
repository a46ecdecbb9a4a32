"""Bytes that wait to be sent over TLS: they wait unencrypted and shared, and all of them come before the end."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from broker import sse
from broker.process.app import create_app
from broker.settings import Settings
from broker.stores.base import NO_OPTIONS
from broker.web.aiohttp_adapter import SERVICES
from broker.web.front.tls_transport import TlsTransport
from broker.web.runner import Runner
from tests.support.http import HOST, close
from tests.support.tls import listen_securely, tls_contexts
from tests.support.waiting import WAIT_SECONDS, until

CONTEXT, TRUSTING = tls_contexts()
LINES = 256 << 10
EVENT = sse.lines(b"\n" * LINES)
"""1.8 MB: each line has `data: ` before it."""
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Bench:
    """A broker with TLS, and clients with sockets that hold next to nothing."""

    def __init__(self, runner: Runner, port: int) -> None:
        self.node = runner.app[SERVICES].node
        self.clients: list[Client] = []
        self._port = port

    async def subscribe(self) -> Client:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((HOST, self._port))
        client = await asyncio.open_connection(
            sock=sock, ssl=TRUSTING, server_hostname="localhost", limit=1000
        )
        client[1].write(b"GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.clients.append(client)
        await until(lambda: len(self.node.streams.hub) == len(self.clients), "it is subscribed")
        return client

    async def publish(self, lines: bytes) -> None:
        await self.node.publish([("a", lines)], options=NO_OPTIONS)

    def all_lag(self) -> bool:
        return not any(each.is_flushed() for each in self.node.streams.hub.subscribers)


@pytest.fixture(params=[False, True], ids=["with epoll", "transports of the loop"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=1)
    await runner.setup()
    listening, port = await listen_securely(runner, CONTEXT, with_transports_of_the_loop=request.param)
    made = Bench(runner, port)
    yield made
    for _, writer in made.clients:
        await close(writer)
    listening.close()
    await runner.cleanup()


async def read_all(client: Client) -> bytes:
    """Everything up to the end, which TLS must announce."""
    read = bytearray()
    async with asyncio.timeout(WAIT_SECONDS):
        while piece := await client[0].read(1 << 16):
            read += piece
    return bytes(read)


async def test_i4_a_large_event_is_held_once_for_all_that_have_yet_to_read_it(bench: Bench) -> None:
    for _ in range(20):
        await bench.subscribe()
    tracemalloc.start()
    try:
        await bench.publish(EVENT)
        await until(bench.all_lag, "all lag")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < len(bench.clients) * len(EVENT) / 3, "most of it are the clients' own buffers"
    await bench.publish(sse.lines(b"next"))
    await bench.node.close("a", "done")
    for read in await asyncio.gather(*map(read_all, bench.clients)):
        assert read.count(b"data: \n") == LINES + 1
        assert read.index(b"data: next\n") < read.index(b"event: broker.end\n")
        assert read.endswith(b"\r\n0\r\n\r\n"), "it is whole"


async def test_it_is_sent_before_the_end_of_a_connection_that_is_closed(bench: Bench) -> None:
    client = await bench.subscribe()
    (subscriber,) = bench.node.streams.hub.subscribers
    transport = subscriber._transport
    assert isinstance(transport, TlsTransport)
    transport.write(EVENT)
    transport.write(b"last")
    transport.close()
    assert transport.is_closing()
    transport.write(b"too late")
    transport.close()
    assert transport.get_write_buffer_size() > len(EVENT) / 2
    read = await read_all(client)
    assert read.count(b"data: \n") == LINES + 1
    assert read.endswith(b"\nlast")


async def test_a_client_that_does_not_read_is_cut_when_its_time_to_close_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.web.front.tls_transport.CLOSE_SECONDS", 0.2)
    await bench.subscribe()
    (subscriber,) = bench.node.streams.hub.subscribers
    transport = subscriber._transport
    transport.write(EVENT)
    transport.close()
    await until(lambda: not len(bench.node.streams.hub), "it is gone")
    await until(lambda: not transport.get_write_buffer_size(), "nothing is kept")
