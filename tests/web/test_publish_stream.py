"""Streamed bodies over HTTP (contract §2)."""

from __future__ import annotations

from typing import Any

import pytest

from broker.web.aiohttp_adapter import SERVICES
from tests.support.local_broker import Server
from tests.support.waiting import until
from tests.web.streamed_body import (
    EVENT_STREAM,
    FORMATS,
    StreamedBody,
    describe,
    events,
)


@pytest.mark.parametrize("kind", FORMATS)
async def test_each_event_is_out_before_the_next_is_in(server: Server, kind: str) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, content_type=kind)
    for number in range(20):
        await body.send(FORMATS[kind](str(number)))
        assert (await stream.data(number + 1))[-1] == str(number)
    answer = await body.end()
    ids = [event.id for event in stream.published()]
    assert answer.status == 200
    assert answer.json() == {"topic": "a", "published": 20, "first_id": ids[0], "last_id": ids[-1]}


async def test_events_that_arrive_together_are_published_together(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, "/topics/a?end=true&end_event=last")
    await body.send(events("0"))
    assert await stream.data(1) == ["0"]
    await body.send(*(events(str(number)) for number in range(1, 6)), b"event: last\ndata: 6\n\n")
    assert await stream.data(7) == ["0", "1", "2", "3", "4", "5", "6"]
    milliseconds = {event.id.split("-")[0] for event in stream.published()[1:]}
    assert len(milliseconds) == 1, "they are published in one step"
    answer = await body.end()
    assert (answer.status, answer.json()["published"]) == (200, 7)
    assert answer.json()["last_id"] == stream.published()[-1].id


async def test_types_pass_and_ids_are_the_brokers(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server)
    await body.send(b"id: 1-1\nretry: 1\nevent: token\ndata: x\n\n")
    await body.end()
    await stream.data(1)
    (event,) = stream.published()
    assert (event.type, event.data) == ("token", "x")
    assert event.id != "1-1"
    assert b"retry: 1\n" not in stream.body


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_cut_body_publishes_nothing_of_the_event_that_was_cut(server: Server, kind: str) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, "/topics/a?end=true", content_type=kind)
    await body.send(FORMATS[kind]("whole") + FORMATS[kind]("cut")[:9])
    assert await stream.data(1) == ["whole"]
    body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    state = await describe(server)
    assert (state["events"], state["closed"]) == (1, False), "a body cut short does not close"


def producing(server: Server) -> Any:
    return server._runner.app[SERVICES].producers


async def test_an_end_within_an_event_counts_the_events_and_closes_nothing(server: Server) -> None:
    body = await StreamedBody.open(server, "/topics/a?end=true")
    await body.send(events("one", "two") + b"data: thr")
    answer = await body.end()
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (400, "invalid-body", 2)
    assert (await describe(server))["closed"] is False


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (b"data: \xff\n\n", 400, "invalid-body"),
        (b"event: broker.end\ndata: x\n\n", 400, "invalid-parameter"),
        (b"data: " + b"x" * 300_000 + b"\n\n", 413, "too-large"),
    ],
)
async def test_a_bad_event_counts_the_events_before_it(
    server: Server, bad: bytes, status: int, code: str
) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server)
    await body.send(events("one"))
    await stream.data(1)
    await body.send(events("two") + bad)
    answer = await body.answer()
    assert await stream.data(2) == ["one", "two"]
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (status, code, 2)
    assert answer.headers["connection"] == "close"


async def test_an_event_stream_goes_to_one_topic(server: Server) -> None:
    answer = await server.request("POST", "/topics?topic=a&topic=b", events("x"), content_type=EVENT_STREAM)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


@pytest.mark.parametrize("kind", FORMATS)
async def test_no_idempotency_key(server: Server, kind: str) -> None:
    answer = await server.request(
        "POST", "/topics/a", FORMATS[kind]("x"), content_type=kind, idempotency_key="k"
    )
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


# An end


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("end", ["true", "on-disconnect"])
async def test_a_clean_end_closes(server: Server, kind: str, end: str) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, f"/topics/a?end={end}", content_type=kind)
    await body.send(FORMATS[kind]("x", "[DONE]"))
    assert await stream.data(2) == ["x", "[DONE]"]
    assert (await describe(server))["closed"] is False, "a terminal chunk of the data is not an end"
    answer = await body.end()
    assert (answer.status, answer.json()["closed"]) == (200, True)
    assert b'event: broker.end\ndata: {"topic":"a","reason":"closed"}\nid: ' in await stream.end()
    last = stream.events[-1].id
    again = await server.request("GET", "/topics/a", accept="text/event-stream", last_event_id=str(last))
    assert again.status == 204
    refused = await server.request("POST", "/topics/a", b"more")
    assert (refused.status, refused.json()["code"]) == (409, "closed")
    body = await StreamedBody.open(server, content_type=kind)
    await body.send(FORMATS[kind]("more"))
    answer = await body.answer()
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (409, "closed", 0)


async def test_an_empty_body_with_end_closes_without_a_further_event(server: Server) -> None:
    await server.publish("a", "x")
    answer = await server.request("POST", "/topics/a?end=true", b"")
    assert (answer.status, answer.json()["closed"]) == (201, True)
    state = await describe(server)
    assert (state["events"], state["closed"], state["last_id"]) == (1, True, answer.json()["id"])
    assert (await server.request("POST", "/topics/a?end=true", b"")).status == 201, "closing again is fine"


async def test_one_event_and_the_end_in_one_step_to_several_topics(server: Server) -> None:
    answer = await server.request("POST", "/topics?topic=a&topic=b&end=true", b"last")
    assert (answer.status, answer.json()["closed"], set(answer.json()["ids"])) == (201, True, {"a", "b"})
    assert [(await describe(server, topic))["closed"] for topic in "ab"] == [True, True]
    refused = await server.request("POST", "/topics?topic=b&topic=c", b"x")
    assert (refused.status, refused.json()["topics"]) == (409, ["b"])
    assert (await describe(server, "c"))["events"] == 0, "all or none"


# Producers that go on


# Abandoned


# Cancel


# Bounds
