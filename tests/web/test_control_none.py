"""Streams without the broker's own events: `?control=none` (contract §3, "Control events")."""

from __future__ import annotations

import json
import re

import pytest

from broker.log.start import Latest
from tests.support.event_stream import AsyncStream
from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import until
from tests.web.streamed_body import close_topic

SILENT = "/topics/a?control=none"
OPENING = rb"retry: \d+\n:\n"
ACCEPTS = [
    "text/event-stream",
    "application/json",
    "text/html",
    "*/*",
    "text/html, application/json;q=0.9",
    "image/png",
]


async def opened(server: Server, target: str = SILENT, **headers: str) -> AsyncStream:
    """A silent stream that has begun."""
    stream = await server.subscribe(target, **headers)
    assert stream.status == 200
    await stream.until(lambda: re.match(OPENING, bytes(stream.body)))
    return stream


def assert_no_block_lacks_data(body: bytes) -> None:
    *blocks, _ = body.split(b"\n\n")
    for block in blocks:
        assert re.search(rb"^data: ", block, re.MULTILINE), block


async def ends_without_last_chunk(stream: AsyncStream) -> bytes:
    body = await stream.end()
    assert not stream.is_complete
    assert_no_block_lacks_data(body)
    return body


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_the_answer_is_always_the_stream(server: Server, accept: str) -> None:
    stream = await opened(server, accept=accept)
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["transfer-encoding"] == "chunked"
    event_id = await server.publish("a", "1", "?event=token")
    assert await stream.data(1) == ["1"]
    await close_topic(server, "a", "2")
    body = await stream.end()
    last = stream.events[-1].id
    assert re.fullmatch(
        OPENING + f"event: token\ndata: 1\nid: {event_id}\n\ndata: 2\nid: {last}\n\n".encode(), body
    )
    assert stream.is_complete


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_several_topics_are_the_stream_too(server: Server, accept: str) -> None:
    stream = await opened(server, "/topics?topic=a&topic=b&control=none", accept=accept)
    await close_topic(server, "a", "1")
    await server.publish("b", "2")
    await close_topic(server, "b", "3", "?end=true&reason=failed")
    body = await stream.end()
    assert [event.data for event in stream.events] == ["1", "2", "3"]
    assert b"broker." not in body
    assert_no_block_lacks_data(body)
    assert stream.is_complete


@pytest.mark.parametrize("target", ["/topics?control=none", "/topics?control=none&limit=1"])
async def test_it_is_never_the_list_of_topics(server: Server, target: str) -> None:
    answer = await server.request("GET", target, accept="application/json")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_envelopes(server: Server) -> None:
    await server.publish("a", "1", "?event=token")
    stream = await opened(server, "/topics?topic=a&topic=b&control=none&envelope=json&since=earliest")
    await close_topic(server, "b", "2")
    await close_topic(server, "a")
    body = await stream.end()
    assert [json.loads(event.data)["data"] for event in stream.events] == ["1", "2"]
    assert b"event:" not in body
    assert stream.is_complete


async def test_a_closed_topic_is_replayed_and_ends_cleanly(server: Server) -> None:
    await server.publish("a", "1")
    await close_topic(server, "a", "2")
    stream = await opened(server, SILENT + "&since=earliest")
    await stream.end()
    assert [event.data for event in stream.events] == ["1", "2"]
    assert stream.is_complete
    stream = await opened(server)
    assert re.fullmatch(OPENING, await stream.end())
    assert stream.is_complete


async def test_a_cursor_behind_the_end_gets_204(server: Server) -> None:
    await server.publish("a", "1")
    await close_topic(server, "a")
    told = await server.subscribe("/topics/a?since=earliest")
    await told.end()
    for accept in ACCEPTS:
        stream = await server.subscribe(SILENT, last_event_id=told.events[-1].id, accept=accept)
        assert stream.status == 204


async def test_a_deleted_topic_ends_cleanly(server: Server) -> None:
    stream = await opened(server)
    await server.publish("a", "1")
    await server.request("DELETE", "/topics/a")
    body = await stream.end()
    assert ([event.data for event in stream.events], b"broker." in body) == (["1"], False)
    assert stream.is_complete


async def test_a_cancel_is_not_written(server: Server) -> None:
    stream = await opened(server)
    told = await server.subscribe("/topics/a")
    await server.request("POST", "/topics/a/cancel")
    await told.until(lambda: told.events[-1:] and told.events[-1].type == "broker.cancel")
    await close_topic(server, "a", "last")
    assert b"broker." not in await stream.end()
    assert stream.is_complete


async def test_heartbeats_stay(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=0.1)
    stream = await opened(server, "/topics?topic=a&topic=b&control=none")
    await stream.until(lambda: bytes(stream.body).endswith(b"\n:\n:\n:\n"))
    await close_topic(server, "a")
    before = len(stream.body)
    await stream.until(lambda: len(stream.body) > before)
    assert set(bytes(stream.body[before:]).split(b"\n")) == {b":", b""}
    assert b"\n\n" not in stream.body


def assert_gap(answer: Answer, after: str, reason: str, topic: str = "a") -> None:
    problem = answer.json()
    assert (answer.status, problem["status"], problem["code"], problem["title"]) == (410, 410, "gap", "Gone")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["topic"], problem["after"], problem["reason"]) == (topic, after, reason)
    assert "since=earliest" in problem["detail"]


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_a_malformed_cursor_is_gone(server: Server, accept: str) -> None:
    await server.publish("a", "1")
    assert_gap(await server.request("GET", SILENT, last_event_id="x y", accept=accept), "x y", "unknown-id")
    assert_gap(await server.request("GET", SILENT + "&last_event_id=zzz", accept=accept), "zzz", "unknown-id")


async def test_a_cursor_with_a_gap_is_gone(serve: Serve) -> None:
    server = await serve(retention_events=1)
    first = await server.publish("a", "1")
    second = await server.publish("a", "2")
    await server.publish("a", "3")
    for target, headers in (
        (SILENT, {"last_event_id": first}),
        (f"{SILENT}&lastEventId={first}", {}),
        (f"{SILENT}&since={first}", {}),
    ):
        assert_gap(await server.request("GET", target, **headers), first, "trimmed")
    assert_gap(await server.request("GET", SILENT, last_event_id="1-0"), "1-0", "lost")
    ahead = "99999999999999-0"
    assert_gap(await server.request("GET", SILENT, last_event_id=ahead), ahead, "unknown-id")
    stream = await opened(server, last_event_id=second)
    assert await stream.data(1) == ["3"]
    stream = await opened(server, SILENT + "&since=1h")
    assert await stream.data(1) == ["3"], "a time isn't a cursor"
    metric = server.node.metrics.registry.get_sample_value("broker_gaps_total", {"reason": "trimmed"})
    assert metric == 3


async def test_of_several_topics_all_gaps_are_reported(serve: Serve) -> None:
    server = await serve(retention_events=1)
    first = await server.publish("a", "1")
    for topic in ("a", "b", "b", "a", "c"):
        await server.publish(topic, "x")
    answer = await server.request("GET", "/topics?topic=c&topic=a&topic=b&control=none", last_event_id=first)
    assert_gap(answer, first, "trimmed", "a")
    assert answer.json()["also"] == [{"topic": "b", "after": first, "reason": "trimmed"}]
    assert server.subscribers_of("a") == server.subscribers_of("c") == 0


async def lose(server: Server, topic: str) -> None:
    """Have the store lose an event of `topic` that was never delivered."""
    logs = server.node.logs
    (log,) = await logs.watch([topic], Latest())
    logs.last_id += 1  # type: ignore[misc]
    log.append_gap(logs.last_id, "lost")
    server.node.delivered(topic, 0)
    logs.unwatch([topic])


async def test_a_gap_behind_the_cursor_is_gone(server: Server) -> None:
    first = await server.publish("a", "1")
    follower = await server.subscribe("/topics/a")
    await lose(server, "a")
    await server.publish("a", "2")
    await follower.data(1)
    assert_gap(await server.request("GET", SILENT, last_event_id=first), first, "lost")
    stream = await opened(server, last_event_id=follower.events[-1].id)
    await close_topic(server, "a", "3")
    await stream.end()
    assert [event.data for event in stream.events] == ["3"]


@pytest.mark.parametrize("topics", ["/topics/a?", "/topics?topic=a&topic=b&"])
async def test_a_gap_that_comes_later_cuts_the_stream(server: Server, topics: str) -> None:
    stream = await opened(server, topics + "control=none")
    told = await server.subscribe(topics + "x")
    await server.publish("a", "1")
    await lose(server, "a")
    await server.publish("a", "2")
    body = await ends_without_last_chunk(stream)
    assert ([event.data for event in stream.events], b"broker." in body) == (["1"], False)
    assert await told.data(2) == ["1", "2"]
    assert told.gaps() == ["lost"]
    sample = server.node.metrics.registry.get_sample_value
    await until(lambda: sample("broker_closes_total", {"reason": "gap"}) == 1, "it is counted")
    assert server.subscribers_of("a") == 1


@pytest.mark.parametrize("how", ["drained", "too old", "disconnected"])
@pytest.mark.parametrize("target", [SILENT, "/topics?topic=a&topic=b&control=none&envelope=json"])
async def test_a_cut_never_looks_whole(serve: Serve, how: str, target: str) -> None:
    server = await serve(max_age_seconds=0.5 if how == "too old" else 0, drain_seconds=0.1)
    await server.publish("a", "1")
    stream = await opened(server, f"{target}&since=earliest")
    await stream.event(1)
    if how == "drained":
        await server.node.streams.drain()
    elif how == "disconnected":
        await server.node.instances.disconnect(topic="a")
    body = await ends_without_last_chunk(stream)
    assert body.count(b"retry:") == 1
    assert b"broker." not in body
    assert len(stream.events) == 1


@pytest.mark.parametrize("how", ["expired", "revoked"])
async def test_expiry_and_revocation_cut(serve: Serve, clock: Clock, how: str) -> None:
    server = await serve(jwt_secrets=(SECRET,))
    token = HMAC.token(subscribe=["a"], exp=int(clock.now) + 60, sub="ann", iat=int(clock.now) - 1)
    stream = await opened(server, authorization=f"Bearer {token}")
    if how == "expired":
        clock.now += 61
        server.node.streams.evictions.sweep()
    else:
        await server.node.instances.revoke(subject="ann")
    assert re.fullmatch(OPENING, await ends_without_last_chunk(stream))


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_refusals_are_http(serve: Serve, accept: str) -> None:
    server = await serve(max_connections=1)
    await opened(server)
    answer = await server.request("GET", SILENT, accept=accept)
    assert (answer.status, answer.json()["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) > 0
    assert (await server.subscribe("/topics/a")).status == 200, "an EventSource is asked to come back"


async def test_limits_are_429_and_a_drain_is_503(serve: Serve) -> None:
    server = await serve(max_connections_per_address=1)
    await opened(server)
    answer = await server.request("GET", SILENT, accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (429, "rate-limited")
    assert int(answer.headers["retry-after"]) > 0
    server.node.streams.is_draining = True
    answer = await server.request("GET", SILENT, accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_http_1_0_is_refused(server: Server, method: str) -> None:
    reader, _ = await server.send(f"{method} {SILENT} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n".encode())
    answer = await reader.read()
    assert re.match(rb"HTTP/1\.[01] 400 Bad Request\r\n", answer)
    assert b"application/problem+json" in answer
    if method == "GET":
        assert b"HTTP/1.1" in answer.split(b"\r\n\r\n", 1)[1]


async def test_head_tells_what_get_would(serve: Serve) -> None:
    server = await serve(retention_events=1)
    first = await server.publish("a", "1")
    second = await server.publish("a", "2")
    await server.publish("a", "3")
    for headers, status in (
        ({}, 200),
        ({"last_event_id": second}, 200),
        ({"last_event_id": first}, 410),
        ({"last_event_id": "zzz"}, 410),
    ):
        answer = await server.request("HEAD", SILENT, accept="application/json", **headers)
        assert answer.status == status, headers
        expected = "text/event-stream" if status == 200 else "application/problem+json"
        assert answer.headers["content-type"] == expected
        assert answer.body == b""
    assert len(server.node.streams) == 0


@pytest.mark.parametrize("value", ["", "all", "None", "none%20", "false"])
async def test_other_values_are_refused(server: Server, value: str) -> None:
    answer = await server.request("GET", f"/topics/a?control={value}", accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_a_reader_that_lags_gets_everything_and_a_clean_end(serve: Serve) -> None:
    server = await serve(slow_seconds=60, retention_bytes=50_000_000)
    stream = await opened(server)
    for _ in range(60):
        await server.publish("a", "x" * 200_000)
    await close_topic(server, "a", "last")
    assert len(await stream.data(61)) == 61
    await stream.end()
    assert stream.is_complete
