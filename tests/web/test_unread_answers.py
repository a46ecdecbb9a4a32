"""Pages of history that clients don't read: they become small before they fill the memory (I4)."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.errors import Overloaded, RateLimited
from broker.metrics import Metrics
from broker.web.aiohttp_adapter import SERVICES
from broker.web.services import Services
from broker.web.unread_answers import ADDRESS_SHARE, LARGE_BYTES, SMALL_BYTES, Reservation, UnreadAnswers
from tests.support.http import HOST, request
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until
from tests.web.history import data, get

MANY = 64 << 20
EVENT = 256 << 10


def test_held_bytes_and_those_of_answers_in_progress_count() -> None:
    answers = UnreadAnswers(Metrics(), EVENT)
    answers.max_bytes = 2 << 20
    with answers.room("") as first, answers.room("") as second, answers.room("") as third:
        assert [one.max_bytes for one in (first, second, third)] == [LARGE_BYTES, LARGE_BYTES, SMALL_BYTES]
        assert answers.bytes == 2 * LARGE_BYTES
    assert answers.bytes == 0
    assert answers.hold("x", "", (1 << 20) + 5000)
    with pytest.raises(ValueError), answers.room("") as room:
        assert room.max_bytes == SMALL_BYTES
        raise ValueError
    answers.release("x")
    with answers.room("") as room:
        assert room.max_bytes == LARGE_BYTES


def test_an_address_has_a_share() -> None:
    metrics = Metrics()
    answers = UnreadAnswers(metrics, EVENT)
    answers.max_bytes = 8 << 20
    with answers.room("a") as first, answers.room("a") as second, answers.room("a") as third:
        assert [one.max_bytes for one in (first, second, third)] == [LARGE_BYTES, LARGE_BYTES, SMALL_BYTES]
        with answers.room("b") as other:
            assert other.max_bytes == LARGE_BYTES
    assert answers.hold("x", "a", 2 << 20)
    for address, expected in (("a", SMALL_BYTES), ("b", LARGE_BYTES), ("", LARGE_BYTES)):
        with answers.room(address) as room:
            assert room.max_bytes == expected
    assert metrics.shortened_answers.values == {"all": 0, "address": 2}


def test_what_is_too_large_for_the_room_is_refused() -> None:
    metrics = Metrics()
    answers = UnreadAnswers(metrics, EVENT)
    answers.max_bytes = 8 << 20
    with answers.room("a") as room:
        room.need(SMALL_BYTES)
        room.need(3 << 20)  # alone, an event may be larger than the share
        assert answers.of("a") == 3 << 20
        with answers.room("a") as further:
            further.need(SMALL_BYTES)
            with pytest.raises(RateLimited) as refused:
                further.need(SMALL_BYTES + 1)
            assert refused.value.retry_after > 0
        with answers.room("b") as other, pytest.raises(Overloaded) as overloaded:
            other.need(6 << 20)
        assert overloaded.value.retry_after > 0
    assert (answers.bytes, answers.of("a"), answers.of("b")) == (0, 0, 0)
    assert metrics.refused_answers.values == {"all": 1, "address": 1}


def test_small_answers_count_without_being_asked_for() -> None:
    answers = UnreadAnswers(Metrics(), EVENT)
    answers.max_bytes = 4000
    assert answers.hold("x", "a", 1100), "a quarter more than large ones"
    assert not answers.hold("y", "a", 200), "more than the address may have"
    assert answers.hold("x", "a", 1200), "its former bytes no longer count"
    assert answers.hold("y", "b", 1200)
    assert not answers.hold("z", "", 2601), "more than all may have"
    assert answers.hold("z", "", 2600)
    answers.move("x", "successor")
    answers.release("x")
    assert answers.of("a") == 1200
    answers.release("successor")
    assert (answers.of("a"), answers.bytes) == (0, 3800)


@pytest.mark.parametrize("max_event_bytes", [1, EVENT, 64 << 20])
def test_an_event_fits_while_half_a_share_is_held(max_event_bytes: int) -> None:
    answers = UnreadAnswers(Metrics(), max_event_bytes)
    assert answers.max_bytes >= MANY
    assert answers.hold("x", "a", answers.max_bytes // ADDRESS_SHARE // 2)
    answers.check("a", 7 * max_event_bytes)


def holders(services: Services) -> int:
    """How many connections hold part of an answer that is made."""
    return sum(not isinstance(each, Reservation) for each in services.unread_answers._held)


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
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10, keepalive_seconds=1)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    services = server._runner.app[SERVICES]
    services.unread_answers.max_bytes = 3 << 20
    clients: list[socket.socket] = []

    def all_are_held() -> bool:
        return holders(services) == len(clients)

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
    await until(lambda: services.unread_answers.bytes == 0, "all is read")
    assert len((await server.request("GET", "/topics/big/events")).body) > LARGE_BYTES // 2


@pytest.mark.parametrize("is_proxied", [False, True])
async def test_i9_one_address_leaves_large_pages_to_others(
    serve: Serve, request: pytest.FixtureRequest, is_proxied: bool
) -> None:
    """64 pages that one client didn't read made those of all others small."""
    trusted = ("127.0.0.1",) if is_proxied else ()
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10, trusted_proxies=trusted)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    services = server._runner.app[SERVICES]
    services.unread_answers.max_bytes = 16 << 20
    headers = ["X-Forwarded-For: 203.0.113.7"] if is_proxied else []
    clients: list[socket.socket] = []
    for number in range(20):
        clients.append(reader(server, *headers))
        if number < 4:
            await until(lambda: holders(services) == len(clients), "it has a page to read")
    own = reader(server, *headers)
    other = reader(server, "X-Forwarded-For: 203.0.113.8", source=HOST if is_proxied else "127.0.0.2")
    assert await read_all(own) <= SMALL_BYTES + 1024
    assert await read_all(other) > LARGE_BYTES // 2
    sizes = [await read_all(client) for client in clients]
    assert [size > LARGE_BYTES // 2 for size in sizes] == [number < 4 for number in range(20)]
    registry = services.node.metrics.registry
    assert registry.get_sample_value("broker_shortened_answers_total", {"limit": "address"}) == 17


@pytest.mark.parametrize(
    "pipelined",
    [request("GET", "/client.js") * 60, request("GET", "/topics/big/events") * 60],
    ids=["small answers", "pages"],
)
async def test_i9_answers_that_are_not_large_leave_large_pages_to_others(
    serve: Serve, request: pytest.FixtureRequest, pipelined: bytes
) -> None:
    """64 connections of one address with unread answers of a few KiB, or with shortened pages, made all others' pages small."""
    if "aiohttp" in request.node.name:
        return  # where unread answers are not counted
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    services = server._runner.app[SERVICES]
    services.unread_answers.max_bytes = 8 << 20
    answers = services.unread_answers
    clients = [sending(server, pipelined, "127.0.0.9") for _ in range(6)]
    await until(lambda: server.unread == len(clients), "none of them is read")
    other = reader(server, source="127.0.0.2")
    await until(lambda: answers.of("127.0.0.2") > 0, "its large page is counted")
    most = answers.max_bytes // ADDRESS_SHARE * 5 // 4
    assert 0 < answers.of("127.0.0.9") <= most, "its share, and no more"
    assert await read_all(other) > LARGE_BYTES // 2
    for sock in clients:
        sock.close()
    await until(lambda: not answers.bytes, "nothing is counted any more")


async def test_a_last_answer_counts_until_it_is_read(serve: Serve, request: pytest.FixtureRequest) -> None:
    if "aiohttp" in request.node.name:
        return  # where unread answers are not counted
    server = await serve(retention_bytes=16 << 20, max_event_bytes=64 << 10)
    for number in range(40):
        await server.publish("big", f"{number:02}" + "x" * (30 << 10))
    answers = server.services.unread_answers
    client = reader(server, "Connection: close")
    await until(lambda: answers._held.keys() & server.front.lingering, "its connection's successor holds it")
    assert answers.of(HOST) > 0
    client.close()
    await until(lambda: not answers.bytes and not server.front.lingering, "it has ended")
