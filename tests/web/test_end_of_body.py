"""How the end of a streamed body is known, and why it ended (contract §2)."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker.errors import Unavailable
from broker.web.aiohttp_adapter import SERVICES
from broker.web.producers import Producers
from tests.support.distant_store import keep_at_a_distance
from tests.support.event_stream import AsyncStream
from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.waiting import WAIT_SECONDS, until
from tests.web.streamed_body import EVENT_STREAM, NDJSON, StreamedBody, describe, events, kept

DONE = "/topics/a?end=true&end_data=%5BDONE%5D"
STOP = "/topics/a?end=true&end_event=message_stop"


async def send(server: Server, target: str, body: bytes, kind: str = EVENT_STREAM, **headers: str) -> Answer:
    """Send a whole streamed body in two pieces."""
    sending = await StreamedBody.open(server, target, content_type=kind, **headers)
    for piece in (body[:7], body[7:]):
        if piece:
            await sending.send(piece)
    return await sending.end()


async def reason_of(stream: AsyncStream) -> str:
    """Why the stream's topic ended."""
    await stream.until(lambda: stream.events and stream.events[-1].type == "broker.end")
    return str(json.loads(stream.events[-1].data)["reason"])


def producing(server: Server) -> Producers:
    return server._runner.app[SERVICES].producers


async def is_open(server: Server) -> bool:
    return not (await describe(server))["closed"]


def assert_incomplete(answer: Answer, published: int) -> None:
    problem = answer.json()
    assert (answer.status, problem["status"], problem["code"]) == (400, 400, "incomplete")
    assert problem["published"] == published
    assert "closed" not in problem
    assert "send the missing events" in problem["detail"]


WHOLE = {
    "data": (DONE, EVENT_STREAM, events("1", "[DONE]"), 2),
    "data in an unfinished block": (DONE, EVENT_STREAM, b"data: 1\n\ndata: [DONE]\n", 2),
    "data in an unfinished line": (DONE, EVENT_STREAM, b"data: [DONE]", 1),
    "comments behind it": (DONE, EVENT_STREAM, events("[DONE]") + b": bye\n\n\n", 1),
    "a type": (STOP, EVENT_STREAM, b"data: 1\n\nevent: message_stop\ndata: {}\n\n", 2),
    "a type in an unfinished block": (STOP, EVENT_STREAM, b"event: message_stop\ndata: {}\n", 1),
    "the type of both": (DONE + "&end_event=bye", EVENT_STREAM, b"event: bye\ndata: x\n\n", 1),
    "the data of both": (DONE + "&end_event=bye", EVENT_STREAM, events("[DONE]"), 1),
    "a line": (DONE, NDJSON, b'{"data": 1}\n{"data": "[DONE]"}\n', 2),
    "a line without an end": (DONE, NDJSON, b'{"data": "[DONE]"}', 1),
    "a line's type": (STOP, NDJSON, b'{"data": {}, "event": "message_stop"}\n', 1),
    "a line's value": (
        "/topics/a?end=true&end_data=%7B%22done%22:true%7D",
        NDJSON,
        b'{"data": {"done": true}}',
        1,
    ),
    "marks before it": (DONE, EVENT_STREAM, events("[DONE]", "2", "[DONE]"), 3),
}


@pytest.mark.parametrize(("target", "kind", "body", "count"), WHOLE.values(), ids=WHOLE.keys())
async def test_a_body_that_ends_with_its_mark_closes_the_topic(
    server: Server, target: str, kind: str, body: bytes, count: int
) -> None:
    stream = await server.subscribe("/topics/a")
    answer = await send(server, target, body, kind)
    assert (answer.status, answer.json()["published"], answer.json()["closed"]) == (200, count, True)
    assert await reason_of(stream) == "closed"
    assert len(stream.published()) == count, "the mark is published like any event"
    assert answer.json()["last_id"] == stream.published()[-1].id


CUT = {
    "an empty body": (DONE, EVENT_STREAM, b"", 0),
    "only comments": (DONE, EVENT_STREAM, b": hello\n\n", 0),
    "no mark": (DONE, EVENT_STREAM, events("1", "2"), 2),
    "events behind the mark": (DONE, EVENT_STREAM, events("[DONE]", "2"), 2),
    "an unfinished block": (DONE, EVENT_STREAM, events("1") + b"data: 2\n", 1),
    "an unfinished block behind the mark": (DONE, EVENT_STREAM, events("[DONE]") + b"data: 2\n", 1),
    "an unfinished line": (STOP, EVENT_STREAM, events("1") + b'event: message_stop\ndata: {"ty', 1),
    "a mark without data": (STOP, EVENT_STREAM, events("1") + b"event: message_stop\n", 1),
    "the data as a type": (DONE, EVENT_STREAM, b"event: [DONE]\ndata: 1\n\n", 1),
    "the type as data": (STOP, EVENT_STREAM, events("message_stop"), 1),
    "more than the data": (DONE, EVENT_STREAM, events("[DONE] "), 1),
    "no lines": (DONE, NDJSON, b"\n \n", 0),
    "lines without the mark": (DONE, NDJSON, b'{"data": 1}\n', 1),
    "an unfinished last line": (DONE, NDJSON, b'{"data": 1}\n{"data": "[DO', 1),
}


@pytest.mark.parametrize("end", ["end=true", "end=on-disconnect"])
@pytest.mark.parametrize(("target", "kind", "body", "count"), CUT.values(), ids=CUT.keys())
async def test_any_other_end_is_a_cut(
    server: Server, end: str, target: str, kind: str, body: bytes, count: int
) -> None:
    answer = await send(server, target.replace("end=true", end), body, kind)
    assert_incomplete(answer, count)
    assert await is_open(server)
    assert len(await kept(server, "a")) == count, "the published events stand"


async def test_a_cut_body_can_be_completed(server: Server) -> None:
    """By the sequence, the second try repeats nothing; also if all that it sends is known."""
    first = await send(server, DONE, events("1", "2"), broker_producer="p", broker_sequence="1")
    assert_incomplete(first, 2)
    assert first.json()["known"] == 0
    cut = await StreamedBody.open(server, DONE, broker_producer="p", broker_sequence="1")
    await cut.send(events("1", "2", "[DONE]"))
    await until(lambda: server.node.metrics.published.value == 3, "the broker has the mark")
    cut.cut()
    assert await is_open(server), "the mark alone isn't a clean end"
    second = await send(server, DONE, events("1", "2", "[DONE]"), broker_producer="p", broker_sequence="1")
    assert second.status == 200
    assert {name: second.json()[name] for name in ("published", "known", "closed")} == {
        "published": 0,
        "known": 3,
        "closed": True,
    }
    stream = await server.subscribe("/topics/a?since=earliest")
    await stream.end()
    assert [event.data for event in stream.published()] == ["1", "2", "[DONE]"]


async def test_an_empty_rest_is_a_cut_even_if_the_mark_is_known(server: Server) -> None:
    await send(server, "/topics/a", events("1", "[DONE]"), broker_producer="p", broker_sequence="1")
    answer = await send(server, DONE, b"", broker_producer="p", broker_sequence="3")
    assert_incomplete(answer, 0)
    assert await is_open(server)


@pytest.mark.parametrize("body", [b"", events("1"), events("1") + b"data: 2\n"])
async def test_with_on_disconnect_a_cut_begins_the_lease(serve: Serve, clock: Clock, body: bytes) -> None:
    server = await serve(producer_timeout_seconds=1)
    stream = await server.subscribe("/topics/a")
    assert (await send(server, DONE.replace("true", "on-disconnect"), body)).json()["code"] == "incomplete"
    assert await is_open(server)
    clock.now += 2
    assert await reason_of(stream) == "abandoned"


async def test_with_on_disconnect_the_mark_closes(serve: Serve) -> None:
    server = await serve(producer_timeout_seconds=1)
    stream = await server.subscribe("/topics/a")
    answer = await send(server, DONE.replace("true", "on-disconnect") + "&reason=stop", events("[DONE]"))
    assert answer.json()["closed"] is True
    assert await reason_of(stream) == "stop"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/topics/a?end_data=x", EVENT_STREAM),
        ("/topics/a?end_event=x", EVENT_STREAM),
        ("/topics/a?end_data=x", NDJSON),
        ("/topics/a?end=false&end_data=x", EVENT_STREAM),
        ("/topics/a?end_data=x", "text/plain"),
        ("/topics/a?end=true&end_data=x", "text/plain"),
        ("/topics/a?end=true&end_event=x", ""),
        ("/topics?topic=a&end=true&end_data=x", "text/plain"),
        ("/topics?end_data=x", NDJSON),
        ("/topics?end=true&end_data=x", NDJSON),
        ("/topics/a?end=true&end_event=", EVENT_STREAM),
        ("/topics/a?end=true&end_event=broker.end", EVENT_STREAM),
        ("/topics/a?end=true&end_event=a%0Ab", EVENT_STREAM),
        ("/topics/a?end=true&end_event=" + "x" * 101, EVENT_STREAM),
        ("/topics/a?end=true&end_data=%ff", EVENT_STREAM),
    ],
)
async def test_marks_that_make_no_sense(server: Server, target: str, kind: str) -> None:
    answer = await server.request("POST", target, b"data: x\n\n", content_type=kind)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    assert (await describe(server))["events"] == 0


NO_STREAMS = [
    b'{"error": {"message": "no such model"}}',
    b"<html>\n<body>\n502 Bad Gateway\n</body></html>\n",
]


@pytest.mark.parametrize("body", NO_STREAMS)
@pytest.mark.parametrize("target", ["/topics/a", "/topics/a?end=true", DONE, "/topics/a?end=on-disconnect"])
async def test_an_error_page_is_no_event_stream(server: Server, target: str, body: bytes) -> None:
    answer = await send(server, target, body)
    problem = answer.json()
    assert (answer.status, problem["code"], problem["published"]) == (400, "invalid-body", 0)
    assert "an event stream" in problem["detail"]
    state = await describe(server)
    assert (state["events"], state["closed"]) == (0, False)


async def test_only_comments_are_an_event_stream(server: Server) -> None:
    answer = await send(server, "/topics/a?end=true", b": nothing to say\n\n:\n")
    assert (answer.status, answer.json()["published"], answer.json()["closed"]) == (200, 0, True)


@pytest.mark.parametrize("kind", [EVENT_STREAM, NDJSON])
@pytest.mark.parametrize("target", ["/topics/a?end=true", "/topics/a?end=on-disconnect&reason=stop", DONE])
async def test_a_cancel_ends_the_topic_of_a_body_that_asked_for_an_end(
    server: Server, kind: str, target: str
) -> None:
    stream = await server.subscribe("/topics/a")
    body = await StreamedBody.open(server, target, content_type=kind)
    await body.send(b'{"data": "1"}\n' if kind == NDJSON else events("1"))
    await stream.data(1)
    assert (await server.request("POST", "/topics/a/cancel")).status == 202
    answer = await body.answer()
    problem = answer.json()
    assert (answer.status, problem["code"], problem["published"]) == (409, "cancelled", 1)
    assert problem["closed"] is True
    assert answer.headers["connection"] == "close"
    assert await reason_of(stream) == "cancelled"
    assert [event.type for event in stream.events] == ["broker.open", None, "broker.cancel", "broker.end"]
    later = await server.request("POST", "/topics/a?end=true&reason=failed", b"")
    assert later.json()["closed"] is True
    again = await server.subscribe("/topics/a?since=earliest")
    assert await reason_of(again) == "cancelled", "the first end's reason stands"


async def test_a_cancel_that_meets_no_such_body_closes_nothing(server: Server) -> None:
    await server.publish("a", "1")
    assert (await server.request("POST", "/topics/a/cancel")).status == 202
    assert await is_open(server)
    body = await StreamedBody.open(server)
    await body.send(events("2"))
    await until(lambda: server.node.metrics.published.value == 2, "the body is open")
    await server.request("POST", "/topics/a/cancel")
    answer = await body.answer()
    assert (answer.status, "closed" in answer.json()) == (409, False)
    assert await is_open(server)


async def test_a_producer_that_returns_to_a_cancel_ends_its_topic(server: Server) -> None:
    cut = await StreamedBody.open(server, "/topics/a?end=true", broker_producer="p", broker_sequence="1")
    await cut.send(events("1"))
    await until(lambda: server.node.metrics.published.value == 1, "the broker has it")
    cut.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    await server.request("POST", "/topics/a/cancel")
    assert await is_open(server)
    answer = await send(server, "/topics/a?end=true", events("2"), broker_producer="p", broker_sequence="2")
    assert (answer.status, answer.json()["code"], answer.json()["closed"]) == (409, "cancelled", True)
    assert not await is_open(server)


async def test_without_a_store_a_cancelled_body_is_answered_all_the_same(
    server: Server,
) -> None:
    is_away = False

    async def travel() -> None:
        if is_away:
            raise Unavailable("The store is away.")

    keep_at_a_distance(server.node, travel)
    body = await StreamedBody.open(server, "/topics/a?end=true")
    await body.send(events("1"))
    await until(lambda: server.node.metrics.published.value == 1, "the body is open")
    is_away = True
    await server.request("POST", "/topics/a/cancel")
    answer = await body.answer()
    assert (answer.status, answer.json()["code"], "closed" in answer.json()) == (409, "cancelled", False)


async def test_many_subscribers_get_the_cancel_before_the_end(server: Server) -> None:
    streams = await asyncio.gather(*(server.subscribe("/topics/a") for _ in range(300)))
    body = await StreamedBody.open(server, "/topics/a?end=true")
    await body.send(events("1"))
    await asyncio.gather(*(stream.data(1) for stream in streams))
    await server.request("POST", "/topics/a/cancel")
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(stream.end() for stream in streams))
    for stream in streams:
        assert [event.type for event in stream.events[-2:]] == ["broker.cancel", "broker.end"]
