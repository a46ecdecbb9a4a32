"""Many bodies at once: whatever they hold, others get in (I4, I9)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from broker.web.aiohttp_adapter import SERVICES
from tests.support.http import Answer, read_answer
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until
from tests.web.streamed_body import EVENT_STREAM, NDJSON, StreamedBody, events

DESCRIPTORS = 40
ATTACKERS = 60


def metric(server: Server, name: str, **labels: str) -> float:
    return server.node.metrics.registry.get_sample_value(name, labels) or 0


async def first_of(*answers: Coroutine[Any, Any, Answer]) -> Answer:
    """The first of these answers to come; the others are cancelled."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return done.pop().result()


async def check_others_get_in(server: Server) -> None:
    """Streams, requests and single events are served while bodies are open."""
    assert (await server.request("GET", "/healthz")).status == 200
    stream = await server.subscribe("/topics/news")
    assert (await server.request("POST", "/topics/news", b"x")).status == 201
    assert await stream.data(1) == ["x"]


async def test_streamed_bodies_do_not_keep_others_out(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: DESCRIPTORS)
    server = await serve()
    bodies = [await StreamedBody.open(server, f"/topics/{number}") for number in range(ATTACKERS)]
    refused = await first_of(*(body.answer() for body in bodies))
    assert (refused.status, refused.json()["code"], refused.headers["connection"]) == (
        503,
        "overloaded",
        "close",
    )
    assert refused.headers["retry-after"]
    assert metric(server, "broker_refused_bodies_total", limit="bodies") > 0
    assert metric(server, "broker_bodies") == DESCRIPTORS // 2
    await check_others_get_in(server)
    for body in bodies:
        body.cut()
    await until(lambda: metric(server, "broker_bodies") == 0, "they are gone")
    again = await StreamedBody.open(server)
    await again.send(events("y"))
    assert (await again.end()).json()["published"] == 1, "there is room again"


@pytest.mark.parametrize("begun", [b"1", b""])
async def test_bodies_of_which_little_arrives_do_not_keep_others_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: DESCRIPTORS)
    server = await serve()
    request = b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n" + begun
    slow = [await server.send(request) for _ in range(ATTACKERS)]
    assert (await first_of(*(read_answer(reader) for reader, _ in slow))).status == 503
    await until(lambda: metric(server, "broker_refused_bodies_total", limit="bodies") > 0, "a refusal")
    await check_others_get_in(server)
    assert metric(server, "broker_bodies") <= DESCRIPTORS // 2


async def test_an_address_has_a_limit_of_its_own(serve: Serve) -> None:
    server = await serve(max_bodies_per_address=2)
    first, _second, third = [await StreamedBody.open(server) for _ in range(3)]
    answer = await third.answer()
    assert (answer.status, answer.json()["code"], answer.json()["limit"]) == (
        429,
        "rate-limited",
        "max_bodies_per_address",
    )
    assert (await server.request("POST", "/topics/news", b"x")).status == 201, "it arrived with its head"
    assert (await first.end()).status == 200
    assert (await (await StreamedBody.open(server)).end()).status == 200


@pytest.mark.parametrize(
    ("content_type", "endless"),
    [
        (NDJSON, b'{"data": "' + b"x" * 1000),
        (EVENT_STREAM, "data:€\n".encode() * 100),
        (EVENT_STREAM, b"data: " + b"x" * 1000),
    ],
    ids=["line", "lines of data", "line of data"],
)
async def test_i4_events_that_never_end_are_bounded_together(
    serve: Serve, content_type: str, endless: bytes
) -> None:
    server = await serve()
    server._runner.app[SERVICES].bodies.limits._max_bytes = 10_000
    bodies = [await StreamedBody.open(server, content_type=content_type) for _ in range(20)]
    for body in bodies:
        await body.send(endless)
    assert (await first_of(*(body.answer() for body in bodies))).status == 503
    assert metric(server, "broker_refused_bodies_total", limit="bytes") > 0
    assert 0 < metric(server, "broker_body_bytes") <= 10_000
    for body in bodies:
        body.cut()
    await until(lambda: metric(server, "broker_bodies") == 0, "the others to be gone")
    assert metric(server, "broker_body_bytes") == 0


async def test_a_refused_body_leaves_nothing_behind(serve: Serve) -> None:
    server = await serve(max_bodies_per_address=1)
    held = await StreamedBody.open(server)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            refused = await StreamedBody.open(server)
            assert (await refused.answer()).status == 429
            refused.cut()
        await until(lambda: metric(server, "broker_request_connections") == 1, "they are gone")
        kept = [thing for thing in gc.get_objects() if type(thing).__name__ == "_StreamedPublish"]
    finally:
        gc.enable()
    assert len(kept) == 1, "the body that is open"
    assert (await held.end()).status == 200
