"""Publishes that wait keep their place among the bodies until they are published, also when their connections are cut."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import pytest

from broker.web.body_limits import MAX_HELD_BYTES, RETRY_SECONDS
from tests.support.distant_store import keep_at_a_distance
from tests.support.http import RESET_ON_CLOSE, Answer, close, read_answer, request
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until

TOPIC = "news"
SIZE = 250_000
COUNT = 180
"""So many bodies of `SIZE` are more than one client may hold, but not more than all may."""
MALLORY, ALICE = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"

PLAIN = request("POST", f"/topics/{TOPIC}", MALLORY, body=b"x" * SIZE)
SEVERAL = request("POST", f"/topics?topic={TOPIC}&topic=other", MALLORY, body=b"x" * SIZE)
JSON_LINE = request(
    "POST",
    f"/topics/{TOPIC}",
    MALLORY,
    "Content-Type: application/x-ndjson",
    body=json.dumps({"data": "x" * SIZE}).encode() + b"\n",
)
EVENT_STREAM = request(
    "POST",
    f"/topics/{TOPIC}",
    MALLORY,
    "Content-Type: text/event-stream",
    body=b"data: " + b"x" * SIZE + b"\n\n",
)
UNFINISHED = JSON_LINE.replace(b"Content-Length: ", b"Content-Length: 1")
"""Its connection is cut before the end of the body."""


def keyed(number: int) -> bytes:
    return request("POST", f"/topics/{TOPIC}", MALLORY, f"Idempotency-Key: k{number}", body=b"x" * SIZE)


FORMS: dict[str, Callable[[int], bytes]] = {
    "plain": lambda _: PLAIN,
    "several topics": lambda _: SEVERAL,
    "once only": keyed,
    "JSON lines": lambda _: JSON_LINE,
    "an event stream": lambda _: EVENT_STREAM,
    "unfinished": lambda _: UNFINISHED,
}


@pytest.fixture
async def server(serve: Serve) -> Server:
    """One that counts bodies by address."""
    return await serve(trusted_proxies=("127.0.0.1",), max_bodies_per_address=10_000)


async def fill(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a topic's backlog full, until its streams are cut."""
    stream = await server.subscribe(f"/topics/{TOPIC}")
    await stream.event(1)
    monkeypatch.setattr(server.node.streams.hub.fan_out, "_turn", lambda: None)  # nothing is written any more
    for _ in range(5):
        await server.publish(TOPIC, "x" * SIZE)


def waiting(server: Server) -> int:
    return server.node._backpressure.queued.get(TOPIC, 0)


def refused(server: Server) -> int:
    return sum(server.node.metrics.refused_bodies.values.values())


async def send_and_cut(server: Server, data: bytes, arrived: Callable[[], int]) -> None:
    """Send a request on a connection of its own, and reset that once `arrived` has risen."""
    before = arrived()
    _, writer = await server.send(data)
    await until(lambda: arrived() > before, "it has arrived")
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    await close(writer)


def nothing_held(server: Server) -> bool:
    limits = server.services.bodies.limits
    return (limits.count, limits.held_bytes, limits._counts, limits._bytes) == (0, 0, {}, {})


async def answer_to(server: Server, data: bytes) -> Answer:
    reader, _ = await server.send(data)
    return await read_answer(reader)


@pytest.mark.uncompiled
@pytest.mark.parametrize("form", FORMS)
async def test_i4_publishes_that_wait_for_subscribers_are_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    await fill(server, monkeypatch)
    limits = server.services.bodies.limits
    for number in range(COUNT):
        await send_and_cut(server, FORMS[form](number), lambda: waiting(server) + refused(server))
    most = MAX_HELD_BYTES // 2
    assert 0.7 * most < waiting(server) * SIZE <= most
    assert waiting(server) * SIZE <= limits.held_bytes <= most
    answer = await answer_to(server, FORMS[form](COUNT))
    assert (answer.status, answer.json()["code"]) == (429, "rate-limited")
    assert answer.headers["retry-after"] == str(RETRY_SECONDS)
    other = asyncio.ensure_future(
        answer_to(server, request("POST", f"/topics/{TOPIC}", ALICE, body=b"x" * SIZE))
    )
    aside = await answer_to(server, request("POST", "/topics/aside", MALLORY, body=b"x"))
    assert aside.status == 201  # a publish that needn't wait is not refused
    server.node.streams.cut()
    assert (await other).status == 201
    await until(lambda: nothing_held(server), "all is published")
    assert not server.node._backpressure.queued


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [((), 50, 85), ((f"X-A: {'x' * 8000}", f"X-A: {'y' * 6000}"), 20, 37)],
)
async def test_i4_small_publishes_that_wait_are_bounded_too(
    server: Server, monkeypatch: pytest.MonkeyPatch, headers: tuple[str, ...], least: int, most: int
) -> None:
    """Each takes its handler, and its request with all headers."""
    await fill(server, monkeypatch)
    monkeypatch.setattr(server.services.bodies.limits, "_max_bytes", 1 << 20)
    small = request("POST", f"/topics/{TOPIC}", MALLORY, *headers, body=b"")
    for _ in range(most + 10):
        await send_and_cut(server, small, lambda: waiting(server) + refused(server))
    assert least < waiting(server) <= most
    server.node.streams.cut()
    await until(lambda: nothing_held(server), "all is published")


@pytest.mark.uncompiled
async def test_publishes_that_wait_count_as_bodies_of_their_client(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(trusted_proxies=("127.0.0.1",), max_bodies_per_address=3)
    await fill(server, monkeypatch)
    small = request("POST", f"/topics/{TOPIC}", MALLORY, body=b"x")
    for _ in range(3):
        await send_and_cut(server, small, lambda: waiting(server))
    answer = await answer_to(server, small)
    assert (answer.status, answer.json()["limit"]) == (429, "max_bodies_per_address")
    other = asyncio.ensure_future(answer_to(server, request("POST", f"/topics/{TOPIC}", ALICE, body=b"y")))
    await until(lambda: waiting(server) == 4, "another client's publish waits")
    server.node.streams.cut()
    assert (await other).status == 201
    await until(lambda: nothing_held(server), "all is published")


async def test_i4_publishes_that_wait_for_a_store_that_is_behind_are_bounded(server: Server) -> None:
    answers, on_their_way = asyncio.Event(), 0

    async def travel() -> None:
        nonlocal on_their_way
        on_their_way += 1
        await answers.wait()
        on_their_way -= 1

    keep_at_a_distance(server.node, travel)
    for _ in range(COUNT):
        await send_and_cut(server, PLAIN, lambda: on_their_way + refused(server))
    assert 0.9 * MAX_HELD_BYTES / 2 < on_their_way * SIZE <= MAX_HELD_BYTES // 2
    other = asyncio.ensure_future(answer_to(server, request("POST", "/topics/other", ALICE, body=b"x")))
    await until(lambda: on_their_way + refused(server) == COUNT + 1, "another client's publish is on its way")
    answers.set()
    assert (await other).status == 201
    await until(lambda: nothing_held(server), "all is published")
