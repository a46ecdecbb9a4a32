"""Clients that don't read their answers: the unread bytes are bounded, whatever the request was (I4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from broker.stores.base import NO_OPTIONS
from broker.web.unread_answers import ADDRESS_SHARE
from tests.support.http import HOST
from tests.support.http import request as request_of
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until
from tests.web.history import data, get, waiting_polls

HUGE = "\1" * 262_144
"""An event that is six times as large in JSON."""
PAGE = request_of("GET", "/topics/big/events")
POLL = request_of("GET", "/topics/big/events?since=latest&wait=50s")
SHARE = 16 << 20
"""The unread bytes of one address, at most."""
BUFFERED = 64 << 10
"""The rest of an answer that aiohttp takes for sent."""


async def client(server: Server, data: bytes, source: str) -> socket.socket:
    """A client at the address `source` that takes little; it has sent `data`."""
    sock, loop = socket.socket(), asyncio.get_running_loop()
    sock.setblocking(False)
    sock.bind((source, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, (HOST, server.port))
    await loop.sock_sendall(sock, data)
    return sock


def is_answered(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(sock.recv(1, socket.MSG_PEEK))
    return False


async def answer(sock: socket.socket) -> tuple[int, bytes, dict[str, str]]:
    """Read the answer: its status, body and headers."""
    loop = asyncio.get_running_loop()
    received = b""
    while b"\r\n\r\n" not in received:
        received += await loop.sock_recv(sock, 4096)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        received = await loop.sock_recv(sock, 1 << 16)
        assert received, "the answer was cut"
        body += received
    return int(first.split(" ")[1]), body, headers


def unread_bytes(server: Server) -> int:
    """The bytes of answers that the broker holds for clients that have not taken them."""
    if server.is_front:
        transports = [each._transport for each in server.front.connections]
        transports += [each._transport for each in server.front.lingering]
        transports += [each._transport for each in server.node.streams.hub.subscribers]
    else:
        assert server._runner.server is not None
        transports = [each.transport for each in server._runner.server.connections]
    return sum(each.get_write_buffer_size() for each in transports if each is not None)


def bound(server: Server, count: int) -> int:
    """The unread bytes of `count` connections of one address, at most."""
    return SHARE if server.is_front else SHARE + count * BUFFERED


@contextlib.asynccontextmanager
async def clients(
    server: Server, sent: bytes, source: str, count: int
) -> AsyncIterator[Sequence[socket.socket]]:
    made = [await client(server, sent, source) for _ in range(count)]
    try:
        yield made
    finally:
        for sock in made:
            sock.close()
    await until(lambda: server.services.unread_answers.of(source) == 0, "nothing is held any more")


async def test_pages_of_one_huge_event(serve: Serve) -> None:
    server = await serve(retention_bytes=16 << 20)
    await server.publish("big", HUGE)
    async with clients(server, PAGE, "127.0.0.9", 30) as made:
        await until(lambda: all(is_answered(one) for one in made), "all are answered")
        assert SHARE // 2 < unread_bytes(server) <= bound(server, len(made))
        other = await client(server, PAGE, "127.0.0.2")
        status, body, _ = await answer(other)
        assert (status, data(json.loads(body))) == (200, [HUGE]), "other addresses get it"
        other.close()
        late = await client(server, PAGE, "127.0.0.9")
        status, body, headers = await answer(late)
        assert (status, json.loads(body)["code"]) == (429, "rate-limited")
        assert int(headers["retry-after"]) > 0
        late.close()
        registry = server.node.metrics.registry
        refused = registry.get_sample_value("broker_refused_answers_total", {"limit": "address"})
        assert refused is not None
        assert refused > 10
    again = await client(server, PAGE, "127.0.0.9")
    assert (await answer(again))[0] == 200
    again.close()


async def test_polls_that_one_huge_event_wakes(serve: Serve) -> None:
    server = await serve(retention_bytes=16 << 20)
    await server.publish("other", "first")
    cursor = (await get(server, "/topics/other/events"))["cursor"]
    async with clients(server, POLL, "127.0.0.9", 30) as made:
        await until(lambda: waiting_polls(server) == 30, "all wait")
        other = await client(server, POLL, "127.0.0.2")
        await until(lambda: waiting_polls(server) == 31, "it waits")
        await server.publish("big", HUGE)
        status, body, _ = await answer(other)
        assert (status, data(json.loads(body))) == (200, [HUGE]), "other addresses get it"
        other.close()
        await until(lambda: all(is_answered(one) for one in made), "all are answered")
        assert SHARE // 2 < unread_bytes(server) <= bound(server, len(made))
        found = [await answer(one) for one in made]
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 9
        _, body, headers = found[statuses.index(429)]
        assert json.loads(body)["code"] == "rate-limited"
        assert int(headers["retry-after"]) > 0
        assert headers["x-request-id"]
    again = await get(server, f"/topics/big/events?lastEventId={cursor}&wait=50s")
    assert data(again) == [HUGE], "it comes back with the same cursor"


@pytest.mark.parametrize("sent", [PAGE, POLL], ids=["page", "poll"])
async def test_a_poll_or_page_of_an_event_that_json_makes_larger(serve: Serve, sent: bytes) -> None:
    """The frames are few bytes; the JSON is six times as many."""
    server = await serve(retention_bytes=16 << 20)
    text = "\1" * 45_000
    if sent is PAGE:
        await server.publish("big", text)
    async with clients(server, sent, "127.0.0.9", 200) as made:
        if sent is POLL:
            await until(lambda: waiting_polls(server) == len(made), "all wait")
            await server.publish("big", text)
        await until(lambda: all(is_answered(one) for one in made), "all are answered")
        assert unread_bytes(server) <= bound(server, len(made))


@pytest.mark.parametrize("target", ["/client.js", "/topics?limit=1000"])
async def test_answers_to_many_requests_on_each_connection(
    serve: Serve, request: pytest.FixtureRequest, target: str
) -> None:
    """A rest that stays in spite of the kernel's buffer counts. Connections beyond the limit are closed."""
    if "aiohttp" in request.node.name:
        return  # which keeps up to 64 KiB for each connection
    server = await serve()
    for number in range(200):
        await server.node.publish([(f"t{number}" + "x" * 190, b"data: 1\n")], None, NO_OPTIONS)
    answers = server.services.unread_answers
    answers.max_bytes = 512 << 10
    most = (512 << 10) // ADDRESS_SHARE * 5 // 4
    pipelined = request_of("GET", target, "Accept: application/json") * 60
    async with clients(server, pipelined, "127.0.0.9", 60):
        cut = server.node.metrics.cut_requests.values
        await until(lambda: cut["memory"] > 0, "some are closed")
        await until(
            lambda: server.unread == len(server.front.connections), "the others wait for their clients"
        )
        assert 0 < unread_bytes(server) <= most
        assert answers.bytes == unread_bytes(server)
        assert (await server.request("GET", "/client.js")).status == 200, "small answers are sent to all"


@pytest.mark.parametrize("sent", [PAGE, POLL], ids=["pages", "polls"])
async def test_many_addresses_share_one_limit(serve: Serve, sent: bytes) -> None:
    server = await serve(retention_bytes=16 << 20)
    server.services.unread_answers.max_bytes = 8 << 20
    if sent is PAGE:
        await server.publish("big", HUGE)
    async with contextlib.AsyncExitStack() as stack:
        made: list[socket.socket] = []
        for number in range(2, 12):
            made += await stack.enter_async_context(clients(server, sent, f"127.0.0.{number}", 2))
        if sent is POLL:
            await until(lambda: waiting_polls(server) == len(made), "all wait")
            await server.publish("big", HUGE)
        await until(lambda: all(is_answered(one) for one in made), "all are answered")
        most = 8 << 20 if server.is_front else (8 << 20) + len(made) * BUFFERED
        assert 4 << 20 < unread_bytes(server) <= most
        late = await client(server, PAGE, "127.0.0.99")
        status, body, headers = await answer(late)
        assert (status, json.loads(body)["code"]) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
        late.close()
        small = await server.request("GET", "/topics/other/events")
        assert small.status == 200, "small answers are sent to all"
