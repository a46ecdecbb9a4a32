"""Cancels, leases and viewers of streamed bodies."""

from __future__ import annotations

from typing import Any

import pytest

from broker.fanout import batches
from broker.stores.memory.topics import MemoryTopics
from broker.web import producers
from broker.web.aiohttp_adapter import SERVICES
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until
from tests.web.streamed_body import (
    FORMATS,
    StreamedBody,
    describe,
    events,
    send_part,
)


def producing(server: Server) -> Any:
    return server._runner.app[SERVICES].producers


async def test_a_topic_is_abandoned_after_its_producer_disappears(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=0.4)
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, "/topics/a?end=on-disconnect")
    await body.send(events("x"))
    await stream.data(1)
    body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    clock.now += 1
    assert b'"reason":"abandoned"' in await stream.end()


async def test_a_topic_with_an_open_body_is_not_abandoned(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=0.4)
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, "/topics/a?end=on-disconnect")
    await body.send(events("x"))
    topics = server.node._store.topics
    assert isinstance(topics, MemoryTopics)
    await until(lambda: "a" in topics._leases._until, "the lease is taken")
    for _ in range(4):
        clock.now += 0.2
        await until(lambda: topics._leases._until["a"] > topics._clock.steady + 0.3, "the lease is renewed")
    await body.send(events("y"))
    assert await stream.data(2) == ["x", "y"]
    assert (await body.end()).json()["closed"] is True


async def test_a_producer_that_returns_in_time_continues(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=2)
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(
        server, "/topics/a?end=on-disconnect", broker_producer="p", broker_sequence="1"
    )
    await body.send(events("1"))
    await stream.data(1)
    body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    assert (await send_part(server, 2, "2", end="true")).json()["closed"] is True
    clock.now += 10
    assert b'"reason":"closed"' in await stream.end()


async def test_without_on_disconnect_no_topic_is_abandoned(serve: Serve, clock: Any) -> None:
    """One topic with it is abandoned meanwhile."""
    server = await serve(producer_timeout_seconds=0.2)
    streams = {topic: await server.subscribe(f"/topics/{topic}") for topic in "ab"}
    for topic, end in (("a", "true"), ("b", "on-disconnect")):
        body = await StreamedBody.open(server, f"/topics/{topic}?end={end}")
        await body.send(events("x"))
        await streams[topic].data(1)
        body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    clock.now += 100
    assert b'"reason":"abandoned"' in await streams["b"].end()
    assert (await describe(server))["closed"] is False


@pytest.mark.parametrize("kind", FORMATS)
async def test_cancel_reaches_the_producer_at_once_and_the_subscribers(server: Server, kind: str) -> None:
    stream = await server.subscribe("/topics/a")
    other = await server.subscribe("/topics/b")
    body = await StreamedBody.open(server, content_type=kind)
    await body.send(FORMATS[kind]("x"))
    await stream.data(1)
    asked = await server.request("POST", "/topics/a/cancel")
    assert (asked.status, asked.body) == (202, b"")
    answer = await body.answer()
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (409, "cancelled", 1)
    assert answer.headers["connection"] == "close"
    await stream.until(lambda: b"broker.cancel" in stream.body)
    assert stream.body.endswith(b'event: broker.cancel\ndata: {"topic":"a"}\n\n'), "without an id"
    await server.publish("a", "the topic goes on")
    assert (await stream.data(2))[-1] == "the topic goes on"
    await server.publish("b", "x")
    await other.data(1)
    assert b"broker.cancel" not in other.body


async def test_leaving_is_not_cancelling(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=1)  # aiohttp notices by it that a subscriber has left
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server)
    await body.send(events("x"))
    await stream.data(1)
    await stream.close()
    await until(lambda: server.subscribers_of("a") == 0, "it has left")
    await body.send(events("y"))
    assert (await body.end()).json()["published"] == 2


async def test_cancel_without_a_producer(server: Server) -> None:
    assert (await server.request("POST", "/topics/a/cancel")).status == 202
    assert (await server.request("POST", "/topics/a..b/cancel")).status == 400
    assert (await server.request("POST", "/topics/_a/cancel")).status == 403
    assert (await server.request("GET", "/topics/a/cancel")).status == 405
    body = await StreamedBody.open(server)
    await body.send(events("x"))
    assert (await body.end()).status == 200, "a producer that begins afterwards is not cancelled"


async def test_a_producer_that_was_cut_learns_of_the_cancel_when_it_returns(server: Server) -> None:
    await send_part(server, 1, "1")
    await server.request("POST", "/topics/a/cancel")
    body = await StreamedBody.open(server, broker_producer="p", broker_sequence="2")
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")
    closing = await server.request("POST", "/topics/a?end=true", b"")
    assert closing.status == 201, "it can end the topic"


async def test_a_producer_that_sends_its_first_events_again_learns_of_the_cancel(server: Server) -> None:
    """It returns with the sequence number 1; its events, which are known, say that it has been here before."""
    await send_part(server, 1, "1", "2")
    await server.request("POST", "/topics/a/cancel")
    body = await StreamedBody.open(server, "/topics/a?end=true", broker_producer="p", broker_sequence="1")
    await body.send(events("1", "2"))
    answer = await body.end()
    problem = answer.json()
    assert (answer.status, problem["code"], problem["closed"]) == (409, "cancelled", True)
    assert (problem["published"], problem["known"]) == (0, 2)


async def test_a_new_producer_with_a_name_is_not_cancelled(server: Server) -> None:
    await send_part(server, 1, "1")
    await server.request("POST", "/topics/a/cancel")
    body = await StreamedBody.open(server, broker_producer="another", broker_sequence="1")
    await body.send(events("2"))
    answer = await body.end()
    assert (answer.status, answer.json()["published"]) == (200, 1)


async def test_a_slow_subscriber_gets_the_cancel_when_it_reads(serve: Serve) -> None:
    server = await serve(retention_bytes=20_000_000, heartbeat_seconds=1)
    stream = await server.subscribe("/topics/a")
    await stream.event(1)
    await server.publish("a", "x" * 200_000)
    for _ in range(20):
        await server.publish("a", "y" * 200_000)
    await until(lambda: server.node.streams.hub.lagging.number == 1, "it lags")
    for _ in range(3):
        await server.request("POST", "/topics/a/cancel")
    await stream.until(lambda: b"broker.cancel" in stream.body)
    await server.publish("a", "last")
    await stream.until(lambda: b"data: last\n" in stream.body)
    assert stream.body.count(b"event: broker.cancel") == 1
    assert all(event.data for event in stream.events), "no event was torn"


async def test_a_producer_without_viewers_is_cancelled_if_it_asked_for_it(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=1)  # aiohttp notices by it that a subscriber has left
    stream = await server.subscribe("/topics/watched")
    watched, default, unwatched = [
        await StreamedBody.open(server, f"/topics/{target}")
        for target in ("watched?last_viewer=1s", "default", "unwatched?last_viewer=1s")
    ]
    for body in (watched, default, unwatched):
        await body.send(events("x"))
    answer = await unwatched.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")
    assert len(producing(server)) == 2, "one has a viewer, and one needs none"
    await stream.close()
    answer = await watched.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")
    assert (await default.end()).status == 200


async def test_readiness_has_a_check(server: Server) -> None:
    answer = await server.request("GET", "/readyz")
    assert answer.json()["checks"]["producing"] == "ok"


async def test_i4_repeated_cancels_write_to_the_subscribers_in_one_batch(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ACTS", 1)
    streams = [await server.subscribe("/topics/a") for _ in range(5)]
    other = await server.subscribe("/topics/b")
    for _ in range(50):
        await server.node.instances.cancel(
            "a"
        )  # which waits for nothing in memory: no turn of the loop is between
    assert len(server.node.streams.batches) == 1
    await until(lambda: not len(server.node.streams.batches), "all have the event")
    await server.node.instances.cancel("a")
    for stream in streams:
        while stream.body.count(b"event: broker.cancel") < 2:
            assert await stream.more()
    await server.publish("b", "x")
    await other.data(1)
    assert b"broker.cancel" not in other.body


async def test_i4_topics_that_were_cancelled_are_remembered_within_a_bound(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "MAX_CANCELLED", 3)
    for number in range(10):
        assert (await server.request("POST", f"/topics/t{number}/cancel")).status == 202
    assert list(producing(server)._cancelled_at) == ["t7", "t8", "t9"]
