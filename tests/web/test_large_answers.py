"""Pages of history that clients don't read: they become small before they fill the memory (I4)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from broker.metrics import Metrics
from broker.web.aiohttp_adapter import SERVICES
from broker.web.large_answers import LARGE_BYTES, SMALL_BYTES, LargeAnswers
from tests.support.http import HOST, request
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until
from tests.web.history import data, get


class Unread:
    """So many connections have a large answer that isn't read."""

    unread_large = 0
    addresses: Sequence[str] = ()

    def unread_by(self, address: str) -> int:
        return self.addresses.count(address)


def test_unread_answers_and_those_in_progress_count() -> None:
    unread = Unread()
    answers = LargeAnswers(unread, Metrics())
    answers.max_count = 2
    with answers.room("a") as first, answers.room("b") as second, answers.room("c") as third:
        assert (first, second, third) == (LARGE_BYTES, LARGE_BYTES, SMALL_BYTES)
    with answers.room("a") as again:
        assert again == LARGE_BYTES
    unread.unread_large = 2
    with pytest.raises(ValueError), answers.room("a") as size:
        assert size == SMALL_BYTES
        raise ValueError
    unread.unread_large = 1
    with answers.room("a") as size:
        assert size == LARGE_BYTES


def test_an_address_has_a_share() -> None:
    unread, metrics = Unread(), Metrics()
    answers = LargeAnswers(unread, metrics)
    answers.max_count = 8
    with answers.room("a") as first, answers.room("a") as second, answers.room("a") as third:
        assert (first, second, third) == (LARGE_BYTES, LARGE_BYTES, SMALL_BYTES)
        with answers.room("b") as other:
            assert other == LARGE_BYTES
    unread.unread_large, unread.addresses = 3, ("a", "a", "")
    for address, expected in (("a", SMALL_BYTES), ("b", LARGE_BYTES), ("", LARGE_BYTES)):
        with answers.room(address) as size:
            assert size == expected
    assert metrics.shortened_answers.values == {"all": 0, "address": 2}


def reader(server: Server, *headers: str, source: str = HOST) -> socket.socket:
    """A client at the address `source` that takes little and asks for a large page."""
    return sending(server, request("GET", "/topics/big/events", *headers), source)


def sending(server: Server, data: bytes, source: str) -> socket.socket:
    """A client at the address `source` that takes little and sends `data`."""
    client = socket.socket()
    client.bind((source, 0))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((HOST, server.port))
    client.sendall(data)
    client.setblocking(False)
    return client


async def read_all(client: socket.socket) -> int:
    """Read the answer; the number of its bytes."""
    loop, size = asyncio.get_running_loop(), 0
    head = b""
    while b"\r\n\r\n" not in head:
        head += await loop.sock_recv(client, 4096)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    size = len(head.split(b"\r\n\r\n", 1)[1])
    while size < length:
        size += len(await loop.sock_recv(client, 1 << 16))
    client.close()
    return size


async def test_unread_pages_make_further_ones_small(serve: Serve, request: pytest.FixtureRequest) -> None:
    if "aiohttp" in request.node.name:
        return  # where unread answers are not counted
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10, keepalive_seconds=1)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    services = server._runner.app[SERVICES]
    services.large_answers.max_count = 3
    clients: list[socket.socket] = []

    def all_are_held() -> bool:
        return services.large_answers._unread.unread_large == len(clients)

    for number in range(3):
        clients.append(reader(server, source=f"127.0.0.{number + 2}"))
        await until(all_are_held, "it has a page to read")
    clients += [reader(server) for _ in range(20)]
    small = await server.request("GET", "/topics/big/events")
    assert len(small.body) <= SMALL_BYTES + 1024
    found = small.json()
    seen = data(found)
    while found["more"]:
        found = await get(server, f"/topics/big/events?lastEventId={found['cursor']}")
        seen += data(found)
    assert [text[:2] for text in seen] == [f"{number:02}" for number in range(40)], "in more pages"
    sizes = [await read_all(client) for client in clients]
    assert all(size > LARGE_BYTES // 2 for size in sizes[:3])
    assert all(size <= SMALL_BYTES + 1024 for size in sizes[3:])
    await until(lambda: services.large_answers._unread.unread_large == 0, "all is read")
    assert len((await server.request("GET", "/topics/big/events")).body) > LARGE_BYTES // 2


@pytest.mark.parametrize("is_proxied", [False, True])
async def test_i9_one_address_leaves_large_pages_to_others(
    serve: Serve, request: pytest.FixtureRequest, is_proxied: bool
) -> None:
    """64 pages that one client didn't read made those of all others small."""
    if "aiohttp" in request.node.name:
        return  # where unread answers are not counted
    trusted = ("127.0.0.1",) if is_proxied else ()
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10, trusted_proxies=trusted)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    services = server._runner.app[SERVICES]
    services.large_answers.max_count = 16
    headers = ["X-Forwarded-For: 203.0.113.7"] if is_proxied else []
    clients: list[socket.socket] = []
    for number in range(20):
        clients.append(reader(server, *headers))
        if number < 4:
            await until(
                lambda: services.large_answers._unread.unread_large == len(clients), "it has a page to read"
            )
    own = reader(server, *headers)
    other = reader(server, "X-Forwarded-For: 203.0.113.8", source=HOST if is_proxied else "127.0.0.2")
    assert await read_all(own) <= SMALL_BYTES + 1024
    assert await read_all(other) > LARGE_BYTES // 2
    sizes = [await read_all(client) for client in clients]
    assert [size > LARGE_BYTES // 2 for size in sizes] == [number < 4 for number in range(20)]
    registry = services.node.metrics.registry
    assert registry.get_sample_value("broker_shortened_answers_total", {"limit": "address"}) == 17


@pytest.mark.parametrize(
    ("pipelined", "large"),
    [(request("GET", "/client.js") * 60, 0), (request("GET", "/topics/big/events") * 60, 2)],
    ids=["small answers", "pages"],
)
async def test_i9_answers_that_are_not_large_leave_large_pages_to_others(
    serve: Serve, request: pytest.FixtureRequest, pipelined: bytes, large: int
) -> None:
    """64 connections of one address with unread answers of a few KiB, or with shortened pages, made all others' pages small."""
    if "aiohttp" in request.node.name:
        return  # where unread answers are not counted
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    services = server._runner.app[SERVICES]
    services.large_answers.max_count = 8
    timeouts = server.front.timeouts
    clients = [sending(server, pipelined, "127.0.0.9") for _ in range(10)]
    await until(lambda: server.unread == len(clients), "none of them is read")
    other = reader(server, source="127.0.0.2")
    await until(lambda: timeouts.unread_by("127.0.0.2") == 1, "its large page is counted")
    assert timeouts.unread_by("127.0.0.9") == large, "its share, and no more"
    assert await read_all(other) > LARGE_BYTES // 2
    for sock in clients:
        sock.close()
    await until(lambda: not timeouts.unread_large, "nothing is counted any more")


async def test_a_last_answer_counts_until_it_is_read(serve: Serve, request: pytest.FixtureRequest) -> None:
    if "aiohttp" in request.node.name:
        return  # where unread answers are not counted
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    timeouts = server.front.timeouts
    client = reader(server, "Connection: close")
    await until(lambda: timeouts.unread_large == 1, "it is counted")
    assert HOST in {each.reader for each in server.front.lingering}, "by what became of its connection"
    client.close()
    await until(lambda: not timeouts.unread_large and not server.front.lingering, "it has ended")
