"""A stream lasts as long as its token: expiry, revocation, and streams that an operator ends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import time

import pytest

from broker.settings import Settings
from tests.support.event_stream import AsyncStream
from tests.support.http import Answer
from tests.support.local_broker import Clock, Server
from tests.support.redis_servers import Server as Redis
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, until

ADMIN = HMAC.token(["**"], ["**"], admin=True)
FAREWELL = rb'event: broker\.expired\ndata: \{"reason":"(\w+)"\}\n\nretry: \d+\n$'

Brokers = Sequence[Server]
Start = Callable[[], Awaitable[Server]]


@pytest.fixture(params=["memory", "shared"])
async def start_one(
    request: pytest.FixtureRequest, empty_server: Redis, clock: Clock
) -> AsyncIterator[Start]:
    """Starts brokers on one store, which share the test's clock; a store in memory has only one broker."""
    settings: dict[str, object] = {"jwt_secrets": json.dumps([HMAC.material])}
    if request.param == "shared":
        settings["redis_url"] = empty_server.url
    made: list[Server] = []

    async def start() -> Server:
        made.append(Server(Settings.model_validate(settings), clock))
        await made[-1].start()
        return made[-1]

    start.is_shared = request.param == "shared"  # type: ignore[attr-defined]
    yield start
    for server in made:
        await server.stop()


@pytest.fixture
async def brokers(start_one: Start) -> Brokers:
    """One broker with its store in memory, or two on one server: commands to the first take effect on the last."""
    return [await start_one() for _ in range(2 if start_one.is_shared else 1)]  # type: ignore[attr-defined]


async def follow(server: Server, token: str, target: str = "/topics/a") -> AsyncStream:
    stream = await server.subscribe(target, authorization=f"Bearer {token}")
    assert stream.status == 200
    await stream.event(1)
    return stream


async def order(server: Server, path: str, **members: object) -> Answer:
    return await server.request(
        "POST", f"/admin/{path}", json.dumps(members).encode(), authorization=f"Bearer {ADMIN}"
    )


async def status(server: Server, token: str) -> int:
    answer = await server.request(
        "GET", "/topics/a", accept="application/json", authorization=f"Bearer {token}"
    )
    return answer.status


async def ended_by(stream: AsyncStream) -> str:
    """The reason in `broker.expired`."""
    found = re.search(FAREWELL, await stream.end())
    assert found, stream.body
    return found[1].decode()


@asynccontextmanager
async def quickly(clock: Clock) -> AsyncIterator[None]:
    """Let the brokers' time pass five times as fast as ours while the block lasts."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.05)
            clock.now += 0.25

    ticking = asyncio.create_task(tick())
    yield
    ticking.cancel()


async def test_a_stream_ends_when_its_token_expires(brokers: Brokers, clock: Clock) -> None:
    server = brokers[-1]
    until_then = clock.now + 60
    expiring = HMAC.token(subscribe=["a"], exp=until_then)
    streams = [await follow(server, expiring) for _ in range(10)]
    lasting = await follow(server, HMAC.token(subscribe=["a"]))
    clock.now = until_then - 6.5  # the earliest ends a tenth of its time before
    async with quickly(clock):
        for stream in streams:
            assert await ended_by(stream) == "expired"
            assert clock.now + int(stream.body.split(b"retry: ")[-1]) / 1000 >= until_then, (
                "it comes back to be refused"
            )
    await server.publish("a", "still there", authorization=f"Bearer {ADMIN}")
    assert await lasting.data(1) == ["still there"]
    await until(
        lambda: b'broker_closes_total{reason="expired"} 10.0' in server.node.metrics.text(), "all are counted"
    )
    clock.now = max(clock.now, until_then)
    assert await status(server, expiring) == 401


async def test_a_stream_that_ends_during_publishes_goes_on_by_its_cursor(
    brokers: Brokers, clock: Clock
) -> None:
    server = brokers[-1]
    stream = await follow(server, HMAC.token(subscribe=["a"], exp=clock.now + 3))
    sent: list[str] = []
    async with quickly(clock):
        while not _has_ended(server):
            sent.append(str(len(sent)))
            await brokers[0].publish("a", sent[-1], authorization=f"Bearer {ADMIN}")
        assert await ended_by(stream) == "expired"
    seen = [event.data for event in stream.published()]
    again = await server.subscribe(
        "/topics/a", last_event_id=stream.events[-2].id, authorization=f"Bearer {ADMIN}"
    )
    assert seen + await again.data(len(sent) - len(seen)) == sent


def _has_ended(server: Server) -> bool:
    return not len(server.node.streams.hub) or all(
        s.feed is None for s in server.node.streams.hub.subscribers
    )


async def test_revoked_by_its_id(brokers: Brokers) -> None:
    revoked = HMAC.token(subscribe=["a"], jti="7", exp=time() + 60)
    other = HMAC.token(subscribe=["a"], jti="8", exp=time() + 60)
    streams = [await follow(server, revoked) for server in brokers]
    kept = await follow(brokers[-1], other)
    assert (await order(brokers[0], "revoke", jti="7", exp=time() + 60)).status == 202
    for stream in streams:
        assert await ended_by(stream) == "revoked"
    for server in brokers:
        assert (await status(server, revoked), await status(server, other)) == (401, 200)
    await brokers[0].publish("a", "x", authorization=f"Bearer {ADMIN}")
    assert await kept.data(1) == ["x"]


async def test_revoked_with_all_that_a_subject_has(brokers: Brokers) -> None:
    now = int(time())
    old = HMAC.token(subscribe=["a"], sub="ann", iat=now - 5)
    undated = HMAC.token(subscribe=["a"], sub="ann")
    other = HMAC.token(subscribe=["a"], sub="bob", iat=now - 5)
    streams = [await follow(brokers[-1], token) for token in (old, undated)]
    kept = await follow(brokers[-1], other)
    assert (await order(brokers[0], "revoke", sub="ann")).status == 202
    for stream in streams:
        assert await ended_by(stream) == "revoked"
    new = HMAC.token(subscribe=["a"], sub="ann", iat=time() + 1)
    for server in brokers:
        assert [await status(server, token) for token in (old, undated, new, other)] == [401, 401, 200, 200]
    await brokers[0].publish("a", "x", authorization=f"Bearer {ADMIN}")
    assert await kept.data(1) == ["x"]


async def test_disconnected_by_subject(brokers: Brokers) -> None:
    ann = HMAC.token(subscribe=["a"], sub="ann")
    streams = [await follow(server, ann) for server in brokers]
    bob = await follow(brokers[-1], HMAC.token(subscribe=["a"], sub="bob"))
    assert (await order(brokers[0], "disconnect", sub="ann")).status == 202
    for stream in streams:
        assert re.search(rb"\n\nretry: \d+\n$", await stream.end())
    await follow(brokers[-1], ann)  # it may subscribe again
    await brokers[0].publish("a", "x", authorization=f"Bearer {ADMIN}")
    assert await bob.data(1) == ["x"]


async def test_disconnected_by_topic(brokers: Brokers) -> None:
    token = HMAC.token(subscribe=["**"])
    ended = [await follow(brokers[-1], token, target) for target in ("/topics/a", "/topics?topic=b&topic=a")]
    kept = await follow(brokers[-1], token, "/topics/b")
    assert (await order(brokers[0], "disconnect", topic="a")).status == 202
    for stream in ended:
        await stream.end()
    await brokers[0].publish("b", "x", authorization=f"Bearer {ADMIN}")
    assert await kept.data(1) == ["x"]


async def test_a_revoked_token_stops_a_streamed_body(brokers: Brokers) -> None:
    server = brokers[-1]
    token = HMAC.token(["a"], jti="7")
    head = (
        "POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
        f"Transfer-Encoding: chunked\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    line = b'{"data": "%d"}\n'
    reader, writer = await server.send(head.encode() + b"%x\r\n%b\r\n" % (len(line % 1), line % 1))
    watching = await follow(server, ADMIN, "/topics/a?since=earliest")
    assert await watching.data(1) == ["1"]
    assert (await order(brokers[0], "revoke", jti="7")).status == 202
    await until(lambda: len(server.node.streams.evictions.revocations) == 1, "the revocation arrives")
    writer.write(b"%x\r\n%b\r\n" % (len(line % 2), line % 2))
    async with asyncio.timeout(WAIT_SECONDS):
        answer = (await reader.read(2000)).decode()
    assert answer.startswith("HTTP/1.1 401 ")
    assert '"published": 1' in answer


@pytest.mark.parametrize("start_one", ["shared"], indirect=True)
async def test_a_revocation_is_known_to_an_instance_that_starts_later(start_one: Start) -> None:
    token = HMAC.token(subscribe=["a"], jti="7")
    assert (await order(await start_one(), "revoke", jti="7", exp=time() + 60)).status == 202
    later = await start_one()
    await until(lambda: len(later.node.streams.evictions.revocations) == 1, "it has read it")
    assert await status(later, token) == 401
