"""Long polling: a request for history that waits for its first event, and counts as a stream (contract §4)."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from types import SimpleNamespace

import pytest

from tests.support.http import read_answer, request
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tokens import HMAC
from tests.support.waiting import until
from tests.web.history import Waiting, data, follow, get, poll, polls, publish, reasons
from tests.web.streamed_body import close_topic

WAIT = "/topics/a/events?wait=50s"


async def test_a_poll_with_something_to_give_does_not_wait(server: Server) -> None:
    await publish(server, "news", "1")
    assert data(await get(server, "/topics/news/events?wait=50s")) == ["1"]
    assert polls(server) == 0


async def test_a_poll_waits_for_the_first_event(server: Server) -> None:
    waiting = await poll(server, "/topics/news/events?wait=50s")
    assert server.node.metrics.registry.get_sample_value("broker_subscribers") == 1
    (sent,) = await publish(server, "news", "1")
    found = await waiting.json()
    assert (data(found), found["cursor"], found["more"], found["gap"]) == (["1"], sent, False, None)
    await until(lambda: polls(server) == 0, "nothing is left of it")
    assert not server.subscribers_of("news")


async def test_a_poll_ends_empty_after_its_time(server: Server) -> None:
    (last,) = await publish(server, "other", "x")
    waiting = await poll(server, "/topics/news/events?wait=1s")
    assert await waiting.json() == {"events": [], "cursor": last, "more": False, "gap": None, "closed": False}


async def test_a_poll_on_several_topics(server: Server) -> None:
    waiting = await poll(server, "/events?topic=a&topic=b&wait=50s")
    await publish(server, "c", "0")
    await publish(server, "b", "1")
    assert data(await waiting.json()) == ["1"]


async def test_a_poll_ends_when_all_its_topics_end(server: Server) -> None:
    waiting = await poll(server, "/events?topic=a&topic=b&wait=50s")
    await server.request("POST", "/topics/a?end=true")
    await until(lambda: not server.subscribers_of("a"), "the poll has left the closed topic")
    assert server.subscribers_of("b") == 1
    await server.request("POST", "/topics/b?end=true")
    found = await waiting.json()
    assert (found["events"], found["closed"]) == ([], True)
    assert reasons(found) == {"a": "closed", "b": "closed"}
    stream = await server.request("GET", "/topics?topic=a&topic=b", last_event_id=found["cursor"])
    assert stream.status == 204


async def test_a_poll_gets_the_last_event_with_the_end(server: Server) -> None:
    waiting = await poll(server, "/topics/a/events?wait=50s")
    await close_topic(server, "a", "last")
    found = await waiting.json()
    assert (data(found), found["closed"]) == (["last"], True)


async def test_a_poll_ends_when_its_topic_is_deleted(server: Server) -> None:
    await publish(server, "a", "1")
    waiting = await poll(server, "/topics/a/events?wait=50s&since=latest")
    await server.request("DELETE", "/topics/a")
    found = await waiting.json()
    assert (found["events"], found["closed"], found["gap"]) == ([], False, None)
    assert reasons(found) == {"a": "deleted"}
    await publish(server, "a", "2")
    found = await get(server, f"/topics/a/events?lastEventId={found['cursor']}")
    assert (data(found), found["gap"]) == (["2"], None)


async def test_a_cancel_is_nothing_to_give(server: Server) -> None:
    waiting = await poll(server, "/topics/a/events?wait=50s")
    assert (await server.request("POST", "/topics/a/cancel")).status == 202
    await publish(server, "a", "1")
    assert data(await waiting.json()) == ["1"]


async def test_a_poll_gets_no_heartbeat(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=0.05)
    stream = await server.subscribe("/topics/a")
    waiting = await poll(server, "/topics/a/events?wait=50s")
    before = len(stream.body)
    await stream.until(lambda: len(stream.body) > before + 6)  # three of them
    await publish(server, "a", "1")
    assert data(await waiting.json()) == ["1"]


# A waiting poll is a stream


async def test_nothing_is_left_of_the_request(serve: Serve, request: pytest.FixtureRequest) -> None:
    if "aiohttp" in request.node.name:
        return  # where a handler is a task
    server = await serve()
    tasks = len(asyncio.all_tasks())
    waiting = [await poll(server, WAIT) for _ in range(10)]
    assert server.requesting == 0
    assert len(asyncio.all_tasks()) == tasks
    await publish(server, "a", "1")
    assert [data(await one.json()) for one in waiting] == [["1"]] * 10


async def test_polls_are_counted_with_streams(serve: Serve) -> None:
    server = await serve(max_connections_per_address=3)
    stream = await server.subscribe("/topics/a")
    waiting = [await poll(server, WAIT) for _ in range(2)]
    answer = await server.request("GET", WAIT)
    assert (answer.status, answer.json()["code"]) == (429, "rate-limited")
    assert int(answer.headers["retry-after"]) > 0
    assert (await server.request("GET", "/topics/a", accept="*/*")).status == 429
    assert (await get(server, "/topics/a/events"))["events"] == [], "it counts only if it waits"
    await stream.close()
    await publish(server, "a", "1")
    assert [data(await one.json()) for one in waiting] == [["1"]] * 2
    await until(lambda: not server.node.limits._connections, "all have left")


def refused(server: Server, reason: str) -> float:
    """How many streams and polls were refused for this reason."""
    found = server.node.metrics.registry.get_sample_value("broker_refused_connects_total", {"reason": reason})
    return found or 0


async def test_thousands_of_polls_meet_the_limit_of_all_streams(serve: Serve) -> None:
    server = await serve(max_connections=20)
    sent = [await server.send(request("GET", WAIT)) for _ in range(500)]
    await until(lambda: refused(server, "overloaded") == 480, "all but 20 are refused")
    assert polls(server) == 20
    await publish(server, "a", "1")
    answers = [await read_answer(reader) for reader, _ in sent]
    assert sorted(answer.status for answer in answers) == [200] * 20 + [503] * 480
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)


async def test_polls_per_second_are_limited_as_streams_are(serve: Serve) -> None:
    server = await serve(max_connects_per_second=1)
    now = asyncio.get_running_loop().time()
    server.node.limits._loop = SimpleNamespace(time=lambda: now)
    for _ in range(20):
        await server.send(request("GET", WAIT))
    setting = "max_connects_per_second"
    await until(lambda: polls(server) + refused(server, setting) == 20, "all are decided")
    assert 1 <= polls(server) < 20
    await publish(server, "b", "1")
    for _ in range(5):
        answer = await server.request("GET", "/topics/b/events")
        assert answer.status == 200, "it counts only if it waits"
    assert (await server.request("GET", "/topics/b/events?wait=50s")).status == 429


async def test_a_client_that_leaves_gives_its_place_back(
    serve: Serve, request: pytest.FixtureRequest
) -> None:
    if "aiohttp" in request.node.name:
        return  # which sees it at the end of the wait
    server = await serve(max_connections_per_address=2)
    for is_reset in (False, True):
        waiting = await poll(server, WAIT)
        if is_reset:
            sock = waiting.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        waiting.writer.close()
        await until(lambda: polls(server) == 0, "it has left")
    assert not server.node.limits._connections
    assert not server.subscribers_of("a")


async def test_a_client_that_sends_no_more_is_answered_at_once(
    serve: Serve, request: pytest.FixtureRequest
) -> None:
    """It may have left, or may not: it doesn't keep its place, and gets its answer."""
    if "aiohttp" in request.node.name:
        return  # which takes it for gone
    server = await serve()
    (last,) = await publish(server, "other", "x")
    nothing = {"events": [], "cursor": last, "more": False, "gap": None, "closed": False}
    waiting = await poll(server, WAIT)
    waiting.writer.write_eof()
    assert await waiting.json() == nothing
    reader, writer = await server.send(f"GET {WAIT} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    writer.write_eof()
    assert await Waiting(reader, writer).json() == nothing
    await until(lambda: polls(server) == 0, "nothing is left of them")


async def test_a_drain_answers_polls(server: Server) -> None:
    (last,) = await publish(server, "other", "x")
    waiting = await poll(server, WAIT)
    draining = asyncio.ensure_future(server.node.streams.drain())
    assert await waiting.json() == {"events": [], "cursor": last, "more": False, "gap": None, "closed": False}
    await draining
    answer = await server.request("GET", WAIT)
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


async def test_a_poll_ends_before_its_token_expires(serve: Serve, clock: Clock) -> None:
    server = await serve(jwt_secrets=json.dumps([HMAC.material]))
    token = HMAC.token(subscribe=["a"], exp=clock.now + 60)
    waiting = await poll(server, WAIT, f"Authorization: Bearer {token}")
    clock.now += 59.9
    found = await waiting.json()
    assert (found["events"], found["closed"]) == ([], False)
    clock.now += 1
    assert (await server.request("GET", WAIT, authorization=f"Bearer {token}")).status == 401


async def test_a_revoked_token_ends_its_poll_without_events(serve: Serve) -> None:
    server = await serve(jwt_secrets=json.dumps([HMAC.material]))
    admin = HMAC.token(publish=["**"], admin=True)
    token = HMAC.token(subscribe=["a"], sub="ann")
    waiting = await poll(server, WAIT, f"Authorization: Bearer {token}")
    sent = await server.request("POST", "/admin/revoke", b'{"sub": "ann"}', authorization=f"Bearer {admin}")
    assert sent.status == 202
    assert (await waiting.json())["events"] == []
    assert (await server.request("GET", WAIT, authorization=f"Bearer {token}")).status == 401


async def test_an_operator_ends_polls(server: Server) -> None:
    waiting = await poll(server, WAIT)
    assert (await server.request("POST", "/admin/disconnect", b'{"topic": "a"}')).status == 202
    assert (await waiting.json())["events"] == []


async def test_old_polls_end_like_old_streams(serve: Serve) -> None:
    server = await serve(max_age_seconds=1)
    assert (await (await poll(server, WAIT)).json())["events"] == []


async def test_a_burst_comes_in_bounded_answers(serve: Serve) -> None:
    server = await serve(retention_bytes=16 << 20, retention_events=10_000)
    waiting = await poll(server, WAIT)
    lines = b"".join(json.dumps({"data": str(n) + "x" * 1000}).encode() + b"\n" for n in range(300))
    assert (
        await server.request("POST", "/topics/a", lines, content_type="application/x-ndjson")
    ).status == 200
    found = await waiting.json()
    size = len(json.dumps(found["events"]))
    assert 0 < size <= 128 << 10
    rest = await follow(server, WAIT, 300 - len(found["events"]), found["cursor"])
    assert [text.rstrip("x") for text in data(found) + rest] == list(map(str, range(300)))


async def test_polls_lose_nothing_while_publishes_race_with_them(server: Server) -> None:
    """Several clients poll one topic or both; each gets every event once and in order, and a stream agrees."""
    chance = random.Random(7)
    count = 200
    stream = await server.subscribe("/topics?topic=a&topic=b&since=earliest")
    start = (await get(server, "/topics/a/events"))["cursor"]

    async def publish_all() -> None:
        for number in range(count):
            await server.publish("ab"[number % 2], str(number))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    both = [follow(server, "/events?topic=a&topic=b&wait=50s&limit=3", count, start) for _ in range(3)]
    one = [follow(server, WAIT, count // 2, start) for _ in range(3)]
    *seen, _ = await asyncio.gather(*both, *one, publish_all())
    expected = list(map(str, range(count)))
    assert seen == [expected] * 3 + [expected[::2]] * 3
    assert await stream.data(count) == expected
