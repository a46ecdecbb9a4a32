"""Limits by address, subject and time: on one broker with its store in memory, and over two that share a server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import time
from typing import Any

import pytest

from broker.errors import Unavailable
from broker.settings import Settings
from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Server
from tests.support.redis_servers import Server as Redis
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, until
from tests.web.streamed_body import EVENT_STREAM, NDJSON, StreamedBody

Brokers = Sequence[Server]
Start = Callable[..., Awaitable[Brokers]]

PROXY = {"trusted_proxies": "127.0.0.1"}


@pytest.fixture(params=["memory", "shared"])
async def start(request: pytest.FixtureRequest, empty_server: Redis) -> AsyncIterator[Start]:
    """Starts one broker in memory, or two that share a server, with the limits given.

    With `is_frozen`, no time passes for the rates, so that a slow machine doesn't earn a client another event.
    """
    settings: dict[str, Any] = {"jwt_secrets": json.dumps([HMAC.material]), "anonymous": "publish,subscribe"}
    if request.param == "shared":
        settings["redis_url"] = empty_server.url
    made: list[Server] = []

    async def begin(*, is_frozen: bool = False, **limits: Any) -> Brokers:
        for _ in range(1 if request.param == "memory" else 2):
            made.append(Server(Settings.model_validate(settings | limits), time))
            await made[-1].start()
            if is_frozen:
                made[-1].node.limits._loop = FrozenLoop()
        return made

    yield begin
    for server in made:
        await server.stop()


class FrozenLoop:
    """The loop that a broker's rates run on, with a clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object], /) -> None:
        raise NotImplementedError


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {HMAC.token(['**'], ['**'], admin=True, **claims)}"}


async def is_let_in(server: Server, **headers: str) -> AsyncStream | None:
    """The stream of an EventSource; None if it is refused in a way that EventSource retries."""
    stream = await server.subscribe("/topics/a", **headers)
    assert stream.status == 200
    while b"\n:\n" not in stream.body and await stream.more():
        pass
    if b"\n:\n" in stream.body:
        return stream
    found = re.fullmatch(rb"retry: (\d+)\n", stream.body)
    assert found
    assert int(found[1]) >= 10_000
    return None


def pass_time(server: Server, seconds: float) -> None:
    """Let time pass for the rates of a broker that was started with `is_frozen`."""
    loop = server.node.limits._loop
    assert isinstance(loop, FrozenLoop)
    loop.now += seconds


async def metric(server: Server, name: str) -> float:
    text = (await server.request("GET", "/metrics", **bearer())).body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def converge(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try until it is true."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await attempt():
            await asyncio.sleep(0.05)


HOLDERS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]] = {
    "address": (
        {"max_connections_per_address": 3, **PROXY},
        {"x_forwarded_for": "203.0.113.7"},
        {"x_forwarded_for": "203.0.113.8"},
    ),
    "subject": ({"max_connections_per_subject": 3}, bearer(sub="ann"), bearer(sub="bob")),
}


@pytest.mark.parametrize("holder", HOLDERS)
async def test_connections_of_one_holder_are_counted(start: Start, holder: str) -> None:
    limits, mine, others = HOLDERS[holder]
    brokers = await start(**limits)
    first, last = brokers[0], brokers[-1]
    held = [await is_let_in(first, **mine) for _ in range(3)]
    assert all(held)
    assert await is_let_in(first, **mine) is None, "exactly, on one instance"

    async def is_refused() -> bool:
        stream = await is_let_in(last, **mine)
        if stream is not None:
            await stream.close()
        return stream is None

    await converge(is_refused)
    assert await is_let_in(last, **others), "others are not limited"
    label = f'broker_refused_connects_total{{reason="max_connections_per_{holder}"}}'
    assert await metric(first, label) >= 1
    answer = await last.request("GET", "/topics/a", accept="*/*", **mine)
    assert (answer.status, answer.json()["code"]) == (429, "rate-limited")
    assert int(answer.headers["retry-after"]) > 0
    assert held[0] is not None
    await held[0].close()

    async def is_back() -> bool:
        return await is_let_in(last, **mine) is not None

    await converge(is_back)


async def test_refused_and_early_closed_streams_are_not_counted(start: Start) -> None:
    (server, *_) = await start(max_connections_per_address=2)
    for _ in range(5):
        answer = await server.request("HEAD", "/topics/a", accept="text/event-stream")
        assert answer.status == 200
        _, writer = await server.send(b"GET /topics/a HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.transport.abort()
    await server.request("GET", "/healthz")  # is accepted after all of them
    await until(lambda: not (server.node.limits._connections or server.requesting), "all are gone")
    assert await is_let_in(server)
    assert await is_let_in(server)
    assert await is_let_in(server) is None


async def test_forwarded_headers_of_an_untrusted_peer_are_ignored(start: Start) -> None:
    (server, *_) = await start(max_connections_per_address=1)
    assert await is_let_in(server, x_forwarded_for="203.0.113.7")
    assert await is_let_in(server, x_forwarded_for="203.0.113.8", forwarded="for=203.0.113.9") is None


async def test_new_streams_per_second(start: Start) -> None:
    (server, *_) = await start(is_frozen=True, max_connects_per_second=5)
    let_in = await asyncio.gather(*(is_let_in(server) for _ in range(12)))
    refused = let_in.count(None)
    assert 12 - refused == 6, "a second's share, and one that is paid for later"
    label = 'broker_refused_connects_total{reason="max_connects_per_second"}'
    assert refused == await metric(server, label) > 0
    pass_time(server, 1)
    assert await is_let_in(server)


async def test_an_address_over_its_own_limit_takes_nothing_from_others(start: Start) -> None:
    (server, *_) = await start(
        is_frozen=True, max_connects_per_second=20, max_connections_per_address=1, **PROXY
    )
    greedy = {"x_forwarded_for": "203.0.113.1"}
    assert await is_let_in(server, **greedy)
    for _ in range(40):
        assert await is_let_in(server, **greedy) is None
    honest = [await is_let_in(server, x_forwarded_for=f"203.0.113.{10 + n}") for n in range(20)]
    assert all(honest), "a refused client pays nothing"


async def test_new_streams_per_second_of_one_address(start: Start) -> None:
    (server, *_) = await start(
        is_frozen=True, max_connects_per_second=20, max_connects_per_second_per_address=2, **PROXY
    )
    let_in = await asyncio.gather(*(is_let_in(server, x_forwarded_for="203.0.113.1") for _ in range(20)))
    refused = let_in.count(None)
    assert 20 - refused == 3
    honest = [await is_let_in(server, x_forwarded_for=f"203.0.113.{10 + n}") for n in range(10)]
    assert all(honest)
    label = 'broker_refused_connects_total{reason="max_connects_per_second_per_address"}'
    assert refused == await metric(server, label) > 0


async def test_a_stream_that_the_store_refuses_is_not_charged(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server, *_) = await start(max_connects_per_second=3)

    async def refuse(*_: object) -> None:
        raise Unavailable("not now")

    with monkeypatch.context() as patch:
        patch.setattr(server.node.logs, "watch", refuse)
        for _ in range(10):
            assert await is_let_in(server) is None
    assert await is_let_in(server)


async def test_topics_on_one_stream(start: Start) -> None:
    (server, *_) = await start(max_topics_per_connection=2)
    answer = await server.request("GET", "/topics?topic=a&topic=b&topic=c", accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    assert (await server.subscribe("/topics?topic=a&topic=b")).status == 200
    assert await metric(server, 'broker_refused_connects_total{reason="max_topics_per_connection"}') == 1


async def test_events_per_second(start: Start) -> None:
    (server, *_) = await start(is_frozen=True, max_publishes_per_second=5, **PROXY)
    answers = await asyncio.gather(*(server.request("POST", "/topics/a", b"x") for _ in range(20)))
    refused = [answer for answer in answers if answer.status != 201]
    assert 20 - len(refused) == 6
    for answer in refused:
        assert (answer.status, answer.json()["code"]) == (429, "rate-limited")
        assert answer.json()["limit"] == "max_publishes_per_second"
        assert int(answer.headers["retry-after"]) >= 1
    assert (await server.request("POST", "/topics/a", b"x", x_forwarded_for="203.0.113.7")).status == 201
    assert (await server.request("POST", "/topics/a", b"x", **bearer(sub="ann"))).status == 201
    label = 'broker_refused_publishes_total{limit="max_publishes_per_second"}'
    assert await metric(server, label) == len(refused)


async def test_bytes_per_second_with_a_larger_event(start: Start) -> None:
    (server, *_) = await start(is_frozen=True, max_publish_bytes_per_second=1000)
    assert (await server.request("POST", "/topics/a", b"x" * 5000)).status == 201, (
        "else it could never be published"
    )
    answer = await server.request("POST", "/topics/a", b"x")
    assert (answer.status, answer.json()["limit"]) == (429, "max_publish_bytes_per_second")
    assert answer.headers["retry-after"] == "5", "4 s, and a little for the rest of the frame"


async def test_an_event_to_several_topics_counts_for_each(start: Start) -> None:
    (server, *_) = await start(is_frozen=True, max_publishes_per_second=5)
    assert (await server.request("POST", "/topics?topic=a&topic=b&topic=c", b"x")).status == 201
    assert (await server.request("POST", "/topics?topic=a&topic=b&topic=c", b"x")).status == 201
    assert (await server.request("POST", "/topics?topic=a&topic=b&topic=c", b"x")).status == 429


async def test_a_streamed_body_is_slowed_down_instead_of_cut(start: Start) -> None:
    (server, *_) = await start(max_publishes_per_second=100)
    body = b"".join(b'{"data": "%d"}\n' % number for number in range(300))
    began = time()
    answer = await server.request("POST", "/topics/a", body, content_type="application/x-ndjson")
    assert (answer.status, answer.json()["published"]) == (200, 300)
    assert time() - began >= 1.5, "the rate, without the burst and the last batch"
    assert await metric(server, "broker_slowed_bodies_seconds_total") > 0


SHORT_BODY = b"".join(b'{"data": "%d"}\n' % number for number in range(128))


async def test_a_streamed_body_pays_before_it_is_published(start: Start) -> None:
    """Otherwise short bodies on new connections would never wait for their cost."""
    (server, *_) = await start(max_publishes_per_second=5)
    for _ in range(4):
        body = await StreamedBody.open(server, content_type=NDJSON)
        await body.send(SHORT_BODY)

    async def others_wait() -> bool:
        return await metric(server, "broker_slowed_bodies_seconds_total") > 3 * 20

    await converge(others_wait)
    state = await server.request("GET", "/topics/a", accept="application/json")
    assert state.json()["events"] == 128
    answer = await server.request("POST", "/topics/a", b"x")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) <= 25, "events that aren't published cost nothing"


SINGLE_WRITES = {
    "event": ("POST", "/topics/a", b"x"),
    "several topics": ("POST", "/topics?topic=a&topic=b", b"x"),
    "end": ("POST", "/topics/a?end=true", b""),
    "end of several": ("POST", "/topics?topic=a&topic=b&end=true", b""),
    "cancel": ("POST", "/topics/a/cancel", b""),
    "delete": ("DELETE", "/topics/a", b""),
}


@pytest.mark.parametrize("name", SINGLE_WRITES)
async def test_every_write_is_charged(start: Start, name: str) -> None:
    (server, *_) = await start(is_frozen=True, max_publishes_per_second=1)
    method, target, body = SINGLE_WRITES[name]
    answers = [await server.request(method, target, body, **bearer(sub="ann")) for _ in range(8)]
    assert answers[0].status in (201, 202, 204)
    assert answers[-1].status == 429
    assert answers[-1].json()["limit"] == "max_publishes_per_second"


STREAMED_WRITES = {
    "lines": ("/topics/a", NDJSON, b'{"data": 1}\n'),
    "lines with topics": ("/topics", NDJSON, b'{"topic": "a", "data": 1}\n'),
    "event stream": ("/topics/a", EVENT_STREAM, b"data: 1\n\n"),
    "end": ("/topics/a?end=true", NDJSON, b""),
    "lease": ("/topics/a?end=on-disconnect", EVENT_STREAM, b": nothing yet\n"),
}


@pytest.mark.parametrize("name", STREAMED_WRITES)
async def test_every_streamed_write_is_charged(start: Start, name: str) -> None:
    (server, *_) = await start(max_publishes_per_second=0.2)
    target, kind, data = STREAMED_WRITES[name]
    for _ in range(3):
        body = await StreamedBody.open(server, target, kind, **bearer(sub="ann"))
        await body.send(data or b"\n")

    async def is_slowed() -> bool:
        return await metric(server, "broker_slowed_bodies_seconds_total") > 2

    await converge(is_slowed)


async def test_a_debt_is_paid_after_a_minute(start: Start) -> None:
    (server, *_) = await start(is_frozen=True, max_publish_bytes_per_second=100)
    assert (await server.request("POST", "/topics/a", b"x" * 200_000)).status == 201
    answer = await server.request("POST", "/topics/a", b"x")
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")


async def test_an_event_to_several_topics_may_not_take_more_than_a_minute(start: Start) -> None:
    (server, *_) = await start(max_publish_bytes_per_second=1000)
    answer = await server.request("POST", "/topics?topic=a&topic=b", b"x" * 40_000)
    assert (answer.status, answer.json()["code"]) == (413, "too-large")
    assert "fewer topics" in answer.json()["detail"]
    assert (await server.request("POST", "/topics/a", b"x")).status == 201


async def test_a_slowed_body_does_not_delay_the_end(start: Start) -> None:
    (server, *_) = await start(max_publishes_per_second=1, drain_seconds=0)
    reader, writer = await server.send(
        b"POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    line = b'{"data": 1}\n' * 100
    writer.write(b"%x\r\n%b\r\n" % (len(line), line))
    watching = await server.subscribe("/topics/a?since=earliest")
    await watching.data(60)  # what may be charged at once; the rest would wait for a minute
    async with asyncio.timeout(WAIT_SECONDS):
        await server.node.streams.drain()
        stopping = asyncio.ensure_future(server._runner.cleanup())
        answer = await reader.read(2000)
        await stopping
    assert b'"published": 60' in answer
    assert answer.startswith(b"HTTP/1.1 503 ")
