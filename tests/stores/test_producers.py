"""Streamed bodies over two brokers on one server: each reaches producers on the other (contract §2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.stores.brokers import StartPair
from tests.support.local_broker import Server
from tests.support.redis_servers import Server as Redis
from tests.support.waiting import WAIT_SECONDS, until
from tests.web.streamed_body import StreamedBody, describe, events
from tests.web.test_producers import producing

Pair = tuple[Server, Server]


@pytest.fixture
async def pair(empty_server: Redis, start_pair: StartPair) -> Pair:
    """Two brokers on one empty server, with a short producer time-out."""
    given = {"producer_timeout_seconds": 1, "drain_seconds": 0}
    return await start_pair(empty_server.url, **given)


async def until_closed(server: Server, topic: str = "a") -> dict[str, Any]:
    async with asyncio.timeout(WAIT_SECONDS):
        while not (state := await describe(server, topic))["closed"]:
            await asyncio.sleep(0.05)
    return state


async def test_a_piped_answer_is_read_on_the_other_instance_and_ends_there(pair: Pair) -> None:
    one, other = pair
    stream = await other.subscribe("/topics/a?since=earliest")
    body = await StreamedBody.open(one, "/topics/a?end=true&retain=1h")
    for number in range(10):
        await body.send(events(str(number)))
        assert (await stream.data(number + 1))[-1] == str(number)
    assert (await body.end()).json()["closed"] is True
    assert b'"reason":"closed"' in await stream.end()
    last = str(stream.events[-1].id)
    for server in pair:
        again = await server.request("GET", "/topics/a", accept="text/event-stream", last_event_id=last)
        assert again.status == 204
        assert (await server.request("POST", "/topics/a", b"more")).status == 409


async def test_cancel_reaches_the_producer_on_the_other_instance(pair: Pair) -> None:
    one, other = pair
    streams = [await server.subscribe("/topics/a?since=earliest") for server in pair]
    body = await StreamedBody.open(one)
    await body.send(events("x"))
    for stream in streams:
        await stream.data(1)
    assert (await other.request("POST", "/topics/a/cancel")).status == 202
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")
    for stream in streams:
        while b"broker.cancel" not in stream.body:
            assert await stream.more()


async def test_a_producer_continues_on_another_instance(pair: Pair) -> None:
    one, other = pair
    stream = await other.subscribe("/topics/a")
    body = await StreamedBody.open(one, broker_producer="p", broker_sequence="1")
    await body.send(events("1", "2"))
    await stream.data(2)
    body.cut()
    body = await StreamedBody.open(other, "/topics/a?end=true", broker_producer="p", broker_sequence="1")
    await body.send(events("1", "2", "3"))
    answer = await body.end()
    assert (answer.json()["published"], answer.json()["known"], answer.json()["closed"]) == (1, 2, True)
    await stream.end()
    assert [event.data for event in stream.published()] == ["1", "2", "3"]


async def test_a_topic_is_abandoned_if_its_producers_instance_is_gone(pair: Pair) -> None:
    one, other = pair
    stream = await other.subscribe("/topics/a?since=earliest")
    body = await StreamedBody.open(one, "/topics/a?end=on-disconnect")
    await body.send(events("x"))
    await stream.data(1)
    body.cut()
    await one.stop()
    assert b'"reason":"abandoned"' in await stream.end()
    await until_closed(other)


async def test_an_open_body_renews_its_lease(empty_server: Redis, start_pair: StartPair) -> None:
    """Twice, before it expires."""
    given = {"producer_timeout_seconds": 3, "drain_seconds": 0}
    one, other = await start_pair(empty_server.url, **given)
    body = await StreamedBody.open(one, "/topics/a?end=on-disconnect")
    await body.send(events("x"))
    with empty_server.client() as client:

        def expires_at() -> object:
            return client.zscore("broker:{b}:leases", "a")

        await until(expires_at, "the lease is taken")
        for _ in range(2):
            before = expires_at()
            await until(lambda: expires_at() != before, "it is renewed, or given up")  # noqa: B023
    assert (await describe(other))["closed"] is False
    assert (await body.end()).json()["closed"] is True


async def test_a_viewer_on_another_instance_counts(pair: Pair) -> None:
    one, other = pair
    stream = await other.subscribe("/topics/a?since=earliest")
    body = await StreamedBody.open(one, "/topics/a?last_viewer=2s")
    await body.send(events("x"))
    await stream.data(1)
    unwatched = await StreamedBody.open(one, "/topics/b?last_viewer=2s")
    await unwatched.send(events("x"))
    assert (await unwatched.answer()).status == 409
    assert len(producing(one)) == 1
    await stream.close()
    await until(lambda: other.subscribers_of("a") == 0, "it has left")
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")
