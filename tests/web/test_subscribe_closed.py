"""Subscribing to closed topics (contract §3)."""

from __future__ import annotations

import json

import pytest

from broker.events import format_id, parse_id
from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.waiting import until
from tests.web.streamed_body import (
    close_topic,
    told,
)


async def get(server: Server, target: str, **headers: str) -> Answer:
    """A request that is answered without a stream."""
    return await server.request("GET", target, accept="text/event-stream", **headers)


# Publishing


# Reading


async def test_a_cursor_at_the_end_gets_204(server: Server) -> None:
    await close_topic(server, "answer", "1")
    stream = await server.subscribe("/topics/answer?since=earliest")
    await stream.end()
    cursor = stream.events[-1].id
    for answer in (
        await get(server, "/topics/answer", last_event_id=cursor),
        await get(server, f"/topics/answer?lastEventId={cursor}"),
        await get(server, f"/topics/answer?since={cursor}"),
        await server.request("GET", "/topics/answer", last_event_id=cursor),
        await get(server, "/topics/answer?envelope=json", last_event_id=cursor),
    ):
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert "content-type" not in answer.headers
    assert server.subscribers_of("answer") == 0
    head = await server.request("HEAD", "/topics/answer", accept="text/event-stream", last_event_id=cursor)
    assert head.status == 204


async def test_a_cursor_before_the_end_gets_the_rest_and_the_end(server: Server) -> None:
    one = await server.publish("answer", "1")
    await close_topic(server, "answer", "2")
    stream = await server.subscribe("/topics/answer", last_event_id=one)
    await stream.end()
    assert [what for _, what, _ in told(stream)] == ["2", "answerclosed"]
    stream = await server.subscribe("/topics/answer", last_event_id=stream.events[0].id)
    await stream.end()
    assert [what for _, what, _ in told(stream)] == ["answerclosed"]


async def test_a_cursor_that_is_ahead_or_malformed_gets_its_gap_and_the_end(server: Server) -> None:
    await close_topic(server, "answer", "1")
    ahead = format_id((1 << 127) + 5)
    for cursor, expected in (
        (ahead, ["broker.gap", "broker.end"]),
        ("x", ["broker.gap", None, "broker.end"]),
    ):
        stream = await server.subscribe("/topics/answer", last_event_id=cursor)
        await stream.end()
        assert stream.status == 200
        assert [event.type for event in stream.events] == expected


async def test_a_cursor_of_a_store_that_is_gone_gets_lost_and_not_204(serve: Serve, clock: Clock) -> None:
    before = await serve()
    await close_topic(before, "answer", "1")
    stream = await before.subscribe("/topics/answer?since=earliest")
    await stream.end()
    clock.now += 5
    after = await serve()
    stream = await after.subscribe("/topics/answer", last_event_id=stream.events[-1].id)
    assert json.loads((await stream.event(1)).data)["reason"] == "lost"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["broker.open", "broker.end"]),
        ("?since=latest", ["broker.open", "broker.end"]),
        ("?since=earliest", [None, None, "broker.end"]),
        ("?since=1h", [None, None, "broker.end"]),
        ("?since=2100-01-01T00:00:00Z", ["broker.end"]),
        ("?last=1", [None, "broker.end"]),
        ("?last=0", ["broker.open", "broker.end"]),
        ("?since=earliest&envelope=json", [None, None, "broker.end"]),
    ],
)
async def test_without_a_cursor_a_closed_topic_answers_as_any_other(
    server: Server, query: str, expected: list[str | None]
) -> None:
    await server.publish("answer", "1")
    await close_topic(server, "answer", "2")
    stream = await server.subscribe(f"/topics/answer{query}")
    await stream.end()
    assert (stream.status, [event.type for event in stream.events]) == (200, expected)
    assert json.loads(stream.events[-1].data) == {"topic": "answer", "reason": "closed"}
    await until(lambda: server.subscribers_of("answer") == 0, "it is subscribed no more")
    await until(lambda: len(server.node.streams.hub) == 0, "its connection is gone")


async def test_live_events_of_topics_some_of_which_are_closed(server: Server) -> None:
    """I1: the first `broker.open` brings no id, for the ends of the past lie before it."""
    for topic in ("b", "a"):
        await close_topic(server, topic, "x")
    await server.publish("c", "x")
    stream = await server.subscribe("/topics?topic=a&topic=b&topic=c")
    await stream.event(4)
    new = await server.publish("c", "new")
    await stream.data(1)
    kinds = [(kind, what) for kind, what, _ in told(stream)]
    assert kinds[:2] == [("broker.open", "a,b,c"), ("broker.end", "bclosed")]
    assert kinds[2:] == [("broker.end", "aclosed"), ("broker.open", "c"), (None, "new")]
    assert b'"a","b","c"]}\n\nevent: broker.end' in stream.body
    ids = [parse_id(event.id) or 0 for event in stream.events[1:]]
    assert ids == sorted({*ids} - {0}), "strictly increasing"
    assert stream.events[-1].id == new


async def test_the_end_that_is_the_stores_last_id_is_the_cursor_of_the_rest(server: Server) -> None:
    await close_topic(server, "a", "x")
    stream = await server.subscribe("/topics?topic=a&topic=b")
    await stream.event(3)
    assert b'data: {"topics":["b"]}\n\n' in stream.body
    assert stream.events[2].id == stream.events[1].id, "none of its own"
    await server.publish("b", "new")
    assert await stream.data(1) == ["new"]


async def test_a_subscriber_is_not_sent_closed_topics_again(server: Server) -> None:
    await close_topic(server, "a", "x")
    middle = await server.publish("b", "1")
    await close_topic(server, "c", "x")
    stream = await server.subscribe("/topics?topic=a&topic=b&topic=c", last_event_id=middle)
    await stream.event(2)
    await server.publish("b", "2")
    await stream.data(2)
    assert [what for _, what, _ in told(stream)] == ["x", "cclosed", "2"]
    await close_topic(server, "b")
    await stream.end()
    cursor = stream.events[-1].id
    assert (await get(server, "/topics?topic=a&topic=b&topic=c", last_event_id=cursor)).status == 204
    open_one = await server.subscribe("/topics?topic=a&topic=d", last_event_id=cursor)
    await server.publish("d", "still")
    assert await open_one.data(1) == ["still"]


# Retention, producers
