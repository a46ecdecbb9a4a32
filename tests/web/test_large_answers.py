"""Pages of history that clients don't read: they become small before they fill the memory (I4)."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.web.aiohttp_adapter import SERVICES
from broker.web.large_answers import LARGE_BYTES, SMALL_BYTES, LargeAnswers
from tests.support.http import HOST, request
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until
from tests.web.history import data, get


class Unread:
    """So many connections have an answer that isn't read."""

    unread_answers = 0


def test_unread_answers_and_those_in_progress_count() -> None:
    unread = Unread()
    answers = LargeAnswers(unread)
    answers.max_count = 2
    with answers.room() as first, answers.room() as second, answers.room() as third:
        assert (first, second, third) == (LARGE_BYTES, LARGE_BYTES, SMALL_BYTES)
    with answers.room() as again:
        assert again == LARGE_BYTES
    unread.unread_answers = 2
    with pytest.raises(ValueError), answers.room() as size:
        assert size == SMALL_BYTES
        raise ValueError
    unread.unread_answers = 1
    with answers.room() as size:
        assert size == LARGE_BYTES


def reader(server: Server) -> socket.socket:
    """A client that takes little and asks for a large page."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((HOST, server.port))
    client.sendall(request("GET", "/topics/big/events"))
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
        return services.large_answers._unread.unread_answers == len(clients)

    for _ in range(3):
        clients.append(reader(server))
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
    await until(lambda: services.large_answers._unread.unread_answers == 0, "all is read")
    assert len((await server.request("GET", "/topics/big/events")).body) > LARGE_BYTES // 2
