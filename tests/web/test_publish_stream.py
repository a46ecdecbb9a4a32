"""Streamed bodies over HTTP: each event at once, how far it came, ends, producers that go on, and cancel (contract §2)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.fanout import batches
from broker.web import producers
from broker.web.aiohttp_adapter import SERVICES
from tests.support.http import Answer, read_answer
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"


class Body:
    """A streamed body that is being sent, in chunks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(
        cls, server: Server, target: str = "/topics/a", content_type: str = EVENTS, **headers: str
    ) -> Body:
        fields = {
            "host": "localhost",
            "content-type": content_type,
            "transfer-encoding": "chunked",
            "connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return cls(*await server.send(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode()))

    async def send(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self) -> Answer:
        self._writer.write(b"0\r\n\r\n")
        return await self.answer()

    async def answer(self) -> Answer:
        return await read_answer(self._reader)

    def cut(self) -> None:
        self._writer.transport.abort()


def events(*texts: str) -> bytes:
    return b"".join(f"data: {text}\n\n".encode() for text in texts)


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"data": text}).encode() + b"\n" for text in texts)


FORMS = {EVENTS: events, NDJSON: lines}


async def info(server: Server, topic: str = "a") -> dict[str, Any]:
    return (await server.request("GET", f"/topics/{topic}", accept="application/json")).json()


@pytest.mark.parametrize("kind", FORMS)
async def test_each_event_is_out_before_the_next_is_in(server: Server, kind: str) -> None:
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, content_type=kind)
    for number in range(20):
        await body.send(FORMS[kind](str(number)))
        assert (await stream.data(number + 1))[-1] == str(number)
    answer = await body.end()
    ids = [event.id for event in stream.published()]
    assert answer.status == 200
    assert answer.json() == {"topic": "a", "published": 20, "first_id": ids[0], "last_id": ids[-1]}


async def test_types_pass_and_ids_are_the_brokers(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server)
    await body.send(b"id: 1-1\nretry: 1\nevent: token\ndata: x\n\n")
    await body.end()
    await stream.data(1)
    (event,) = stream.published()
    assert (event.type, event.data) == ("token", "x")
    assert event.id != "1-1"
    assert b"retry: 1\n" not in stream.body


@pytest.mark.parametrize("kind", FORMS)
async def test_a_cut_body_publishes_nothing_of_the_event_that_was_cut(server: Server, kind: str) -> None:
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, "/topics/a?end=true", content_type=kind)
    await body.send(FORMS[kind]("whole") + FORMS[kind]("cut")[:9])
    assert await stream.data(1) == ["whole"]
    body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    state = await info(server)
    assert (state["events"], state["closed"]) == (1, False), "a body cut short does not close"


def producing(server: Server) -> Any:
    return server._runner.app[SERVICES].producers


async def test_an_end_within_an_event_says_how_far_it_came_and_closes_nothing(server: Server) -> None:
    body = await Body.open(server, "/topics/a?end=true")
    await body.send(events("one", "two") + b"data: thr")
    answer = await body.end()
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (400, "invalid-body", 2)
    assert (await info(server))["closed"] is False


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (b"data: \xff\n\n", 400, "invalid-body"),
        (b"event: broker.end\ndata: x\n\n", 400, "invalid-parameter"),
        (b"data: " + b"x" * 300_000 + b"\n\n", 413, "too-large"),
    ],
)
async def test_a_bad_event_says_how_far_it_came(server: Server, bad: bytes, status: int, code: str) -> None:
    body = await Body.open(server)
    await body.send(events("one", "two"))
    await body.send(bad)
    answer = await body.answer()
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (status, code, 2)
    assert answer.headers["connection"] == "close"


async def test_to_several_topics_it_goes_not(server: Server) -> None:
    answer = await server.request("POST", "/topics?topic=a&topic=b", events("x"), content_type=EVENTS)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


@pytest.mark.parametrize("kind", FORMS)
async def test_no_idempotency_key(server: Server, kind: str) -> None:
    answer = await server.request(
        "POST", "/topics/a", FORMS[kind]("x"), content_type=kind, idempotency_key="k"
    )
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


# An end


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("end", ["true", "on-disconnect"])
async def test_a_clean_end_closes(server: Server, kind: str, end: str) -> None:
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, f"/topics/a?end={end}", content_type=kind)
    await body.send(FORMS[kind]("x", "[DONE]"))
    assert await stream.data(2) == ["x", "[DONE]"]
    assert (await info(server))["closed"] is False, "a terminal chunk of the data is no end"
    answer = await body.end()
    assert (answer.status, answer.json()["closed"]) == (200, True)
    assert b'event: broker.end\ndata: {"topic":"a","reason":"closed"}\nid: ' in await stream.end()
    last = stream.events[-1].id
    again = await server.request("GET", "/topics/a", accept="text/event-stream", last_event_id=str(last))
    assert again.status == 204
    refused = await server.request("POST", "/topics/a", b"more")
    assert (refused.status, refused.json()["code"]) == (409, "closed")
    body = await Body.open(server, content_type=kind)
    await body.send(FORMS[kind]("more"))
    answer = await body.answer()
    assert (answer.status, answer.json()["code"], answer.json()["published"]) == (409, "closed", 0)


async def test_an_empty_body_with_end_closes_without_a_further_event(server: Server) -> None:
    await server.publish("a", "x")
    answer = await server.request("POST", "/topics/a?end=true", b"")
    assert (answer.status, answer.json()["closed"]) == (201, True)
    state = await info(server)
    assert (state["events"], state["closed"], state["last_id"]) == (1, True, answer.json()["id"])
    assert (await server.request("POST", "/topics/a?end=true", b"")).status == 201, "closing again is fine"


async def test_one_event_and_the_end_in_one_step_to_several_topics(server: Server) -> None:
    answer = await server.request("POST", "/topics?topic=a&topic=b&end=true", b"last")
    assert (answer.status, answer.json()["closed"], set(answer.json()["ids"])) == (201, True, {"a", "b"})
    assert [(await info(server, topic))["closed"] for topic in "ab"] == [True, True]
    refused = await server.request("POST", "/topics?topic=b&topic=c", b"x")
    assert (refused.status, refused.json()["topics"]) == (409, ["b"])
    assert (await info(server, "c"))["events"] == 0, "all or none"


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/topics/a?end=maybe", {}),
        ("/topics/a?end=on-disconnect", {}),
        ("/topics/a?retain=soon", {}),
        ("/topics/a?retain=0s", {}),
        ("/topics/a?retain=25h", {}),
        ("/topics/a", {"broker_producer": "p", "broker_sequence": "1"}),
        ("/topics/a?last_viewer=x", {"content_type": EVENTS}),
        ("/topics/a", {"content_type": EVENTS, "broker_producer": "p"}),
        ("/topics/a", {"content_type": EVENTS, "broker_sequence": "1"}),
        ("/topics/a", {"content_type": EVENTS, "broker_producer": "p", "broker_sequence": "0"}),
        ("/topics/a", {"content_type": EVENTS, "broker_producer": "p", "broker_sequence": "-1"}),
        ("/topics/a", {"content_type": EVENTS, "broker_producer": "p", "broker_sequence": "9" * 17}),
        ("/topics/a", {"content_type": EVENTS, "broker_producer": "x" * 101, "broker_sequence": "1"}),
        ("/topics?end=true", {"content_type": NDJSON}),
        ("/topics", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "1"}),
    ],
    ids=str,
)
async def test_bad_wishes(server: Server, target: str, headers: dict[str, str]) -> None:
    answer = await server.request("POST", target, b"", **headers)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_retention_is_what_the_first_publish_asked_for(serve: Serve, clock: Any) -> None:
    server = await serve(retention_seconds=60, retention_events=2)
    body = await Body.open(server, "/topics/a?retain=24h")
    await body.send(events(*(str(number) for number in range(50))))
    await body.end()
    clock.now += 3600
    stream = await server.subscribe("/topics/a?since=earliest")
    assert len(await stream.data(50)) == 50


# Producers that go on


async def send(server: Server, number: int, *texts: str, end: str = "") -> Answer:
    body = await Body.open(
        server, f"/topics/a{end and '?end=' + end}", broker_producer="p", broker_sequence=str(number)
    )
    await body.send(events(*texts))
    return await body.end()


async def test_a_repeated_part_counts_once(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    first = await send(server, 1, "1", "2", "3")
    assert (first.json()["published"], first.json()["known"]) == (3, 0)
    again = await send(server, 2, "2", "3", "4", "5")
    assert (again.status, again.json()["published"], again.json()["known"]) == (200, 2, 2)
    repeated = await send(server, 1, "1", "2", end="true")
    assert (repeated.json()["published"], repeated.json()["known"], repeated.json()["closed"]) == (0, 2, True)
    await stream.end()
    assert [event.data for event in stream.published()] == ["1", "2", "3", "4", "5"]


async def test_a_hole_is_409_with_what_is_expected(server: Server) -> None:
    await send(server, 1, "1", "2")
    body = await Body.open(server, broker_producer="p", broker_sequence="4")
    await body.send(events("4"))
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "out-of-order")
    assert (answer.json()["expected"], answer.json()["published"]) == (3, 0)
    assert (await info(server))["events"] == 2


# Abandoned


async def test_a_producer_that_goes_away_without_an_end_abandons_its_topic(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=0.4)
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, "/topics/a?end=on-disconnect")
    await body.send(events("x"))
    await stream.data(1)
    body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    clock.now += 1
    assert b'"reason":"abandoned"' in await stream.end()


async def test_while_the_body_is_open_it_is_not_abandoned(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=0.4)
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, "/topics/a?end=on-disconnect")
    await body.send(events("x"))
    for _ in range(8):
        clock.now += 0.2
        await asyncio.sleep(0.2)
    await body.send(events("y"))
    assert await stream.data(2) == ["x", "y"]
    assert (await body.end()).json()["closed"] is True


async def test_a_producer_that_comes_back_in_time_goes_on(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=2)
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, "/topics/a?end=on-disconnect", broker_producer="p", broker_sequence="1")
    await body.send(events("1"))
    await stream.data(1)
    body.cut()
    await until(lambda: not len(producing(server)), "the broker has seen it")
    assert (await send(server, 2, "2", end="true")).json()["closed"] is True
    clock.now += 10
    assert b'"reason":"closed"' in await stream.end()


async def test_without_asking_for_it_nothing_is_abandoned(serve: Serve, clock: Any) -> None:
    server = await serve(producer_timeout_seconds=0.2)
    body = await Body.open(server, "/topics/a?end=true")
    await body.send(events("x"))
    stream = await server.subscribe("/topics/a?since=earliest")
    await stream.data(1)
    body.cut()
    clock.now += 100
    await asyncio.sleep(1.2)  # of which the broker's own timers see all
    assert (await info(server))["closed"] is False


# Cancel


@pytest.mark.parametrize("kind", FORMS)
async def test_cancel_reaches_the_producer_at_once_and_the_subscribers(server: Server, kind: str) -> None:
    stream = await server.subscribe("/topics/a")
    other = await server.subscribe("/topics/b")
    body = await Body.open(server, content_type=kind)
    await body.send(FORMS[kind]("x"))
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


async def test_leaving_is_not_cancelling(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server)
    await body.send(events("x"))
    await stream.data(1)
    await stream.close()
    await until(lambda: server.subscribers_of("a") == 0, "it has left")
    await body.send(events("y"))
    assert (await body.end()).json()["published"] == 2


async def test_cancel_of_what_nobody_publishes(server: Server) -> None:
    assert (await server.request("POST", "/topics/a/cancel")).status == 202
    assert (await server.request("POST", "/topics/a..b/cancel")).status == 400
    assert (await server.request("POST", "/topics/_a/cancel")).status == 403
    assert (await server.request("GET", "/topics/a/cancel")).status == 405
    body = await Body.open(server)
    await body.send(events("x"))
    assert (await body.end()).status == 200, "who begins afterwards is not meant"


async def test_a_producer_that_was_cut_hears_of_it_when_it_comes_back(server: Server) -> None:
    await send(server, 1, "1")
    await server.request("POST", "/topics/a/cancel")
    body = await Body.open(server, broker_producer="p", broker_sequence="2")
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")
    closing = await server.request("POST", "/topics/a?end=true", b"")
    assert closing.status == 201, "it can end the topic"


async def test_a_slow_reader_is_told_once_it_reads(serve: Serve) -> None:
    server = await serve(retention_bytes=20_000_000)
    stream = await server.subscribe("/topics/a")
    await stream.event(1)
    await server.publish("a", "x" * 200_000)
    for _ in range(20):
        await server.publish("a", "y" * 200_000)
    await until(lambda: server.node.streams.hub.lagging == 1, "it lags")
    for _ in range(3):
        await server.request("POST", "/topics/a/cancel")
    await stream.until(lambda: b"broker.cancel" in stream.body)
    await server.publish("a", "last")
    await stream.until(lambda: b"data: last\n" in stream.body)
    assert stream.body.count(b"event: broker.cancel") == 1
    assert all(event.data for event in stream.events), "no event was torn"


async def test_nobody_watches_any_more(serve: Serve) -> None:
    server = await serve()
    stream = await server.subscribe("/topics/a")
    body = await Body.open(server, "/topics/a?last_viewer=1s")
    await body.send(events("x"))
    await stream.data(1)
    await asyncio.sleep(1.5)
    assert len(producing(server)) == 1, "somebody watches"
    await stream.close()
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "cancelled")


async def test_by_default_it_goes_on_unwatched(server: Server) -> None:
    body = await Body.open(server)
    await body.send(events("x"))
    await asyncio.sleep(1.2)
    assert len(producing(server)) == 1
    assert (await body.end()).status == 200


async def test_readiness_has_a_check(server: Server) -> None:
    answer = await server.request("GET", "/readyz")
    assert answer.json()["checks"]["producing"] == "ok"


# Bounds


async def test_i4_however_often_a_producer_is_asked_to_stop_its_readers_are_told_by_one_order(
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
    await until(lambda: not len(server.node.streams.batches), "all are told")
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
