"""Topics that end, as publishers and readers see it over HTTP (contract §2, §3)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.events import format_id, parse_id
from tests.support.event_stream import AsyncStream
from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.waiting import until

NDJSON = "application/x-ndjson"


async def end(server: Server, topic: str, data: str = "", query: str = "?end=true", **headers: str) -> Answer:
    answer = await server.request("POST", f"/topics/{topic}{query}", data.encode(), **headers)
    assert answer.status == 201, answer
    return answer


async def lines(
    server: Server, *data: object, target: str = "/topics/answer?end=true", **headers: str
) -> Answer:
    body = "".join(json.dumps({"data": one}) + "\n" for one in data)
    return await server.request("POST", target, body.encode(), content_type=NDJSON, **headers)


async def about(server: Server, topic: str = "answer") -> dict[str, Any]:
    answer = await server.request("GET", f"/topics/{topic}", accept="application/json")
    return answer.json()


async def get(server: Server, target: str, **headers: str) -> Answer:
    """A request that is answered without a stream."""
    return await server.request("GET", target, accept="text/event-stream", **headers)


def told(stream: AsyncStream) -> list[tuple[str | None, str, str]]:
    """Type, topic or data, and id."""
    shown = []
    for event in stream.events:
        own = (event.type or "").startswith("broker.")
        value = json.loads(event.data) if own else {}
        what = value.get("reason") or ",".join(value.get("topics", [])) or event.data
        shown.append((event.type, value.get("topic", "") + what if own else event.data, event.id))
    return shown


# Publishing


async def test_the_last_event_closes_the_topic(server: Server) -> None:
    stream = await server.subscribe("/topics/answer")
    await stream.event(1)
    answer = await end(server, "answer", "that's all")
    body = answer.json()
    assert body == {"topic": "answer", "id": body["id"], "closed": True}
    raw = await stream.end()
    _, event, last = stream.events
    assert (event.data, event.id) == ("that's all", body["id"])
    assert raw.endswith(
        f'event: broker.end\ndata: {{"topic":"answer","reason":"closed"}}\nid: {last.id}\n\n'.encode()
    )
    assert (await about(server))["closed"] is True


async def test_an_empty_body_closes_without_an_event(server: Server) -> None:
    await server.publish("answer", "1")
    closed = (await end(server, "answer")).json()
    assert closed["closed"] is True
    assert (await end(server, "answer")).json() == closed, "closing again is fine"
    stream = await server.subscribe("/topics/answer?since=earliest")
    await stream.end()
    assert [(kind, what) for kind, what, _ in told(stream)] == [(None, "1"), ("broker.end", "answerclosed")]
    assert stream.events[-1].id == closed["id"]
    assert (await about(server))["events"] == 1


async def test_an_empty_event_that_ends_nothing_is_one(server: Server) -> None:
    await server.publish("answer", "", "?end=false")
    shown = await about(server)
    assert (shown["events"], shown["closed"]) == (1, False)


async def test_a_later_publish_is_refused(server: Server) -> None:
    await end(server, "answer", "1")
    for answer in (
        await server.request("POST", "/topics/answer", b"2"),
        await server.request("POST", "/topics/answer?end=true", b"2"),
        await server.request("POST", "/topics?topic=other&topic=answer", b"2"),
        await lines(server, "2"),
    ):
        assert (answer.status, answer.json()["code"]) == (409, "closed")
        assert answer.json()["topics"] == ["answer"]
        assert "DELETE" in str(answer.json()["detail"])
    assert (await about(server, "other"))["events"] == 0


async def test_several_topics_end_with_one_event(server: Server) -> None:
    answer = await server.request("POST", "/topics?topic=a&topic=b&end=true", b"bye")
    assert answer.status == 201
    body = answer.json()
    assert (set(body), body["closed"]) == ({"ids", "closed"}, True)
    stream = await server.subscribe("/topics?topic=a&topic=b&since=earliest")
    await stream.end()
    assert [what for _, what, _ in told(stream)] == ["bye", "bye", "aclosed", "bclosed"]
    empty = await server.request("POST", "/topics?topic=a&topic=b&topic=c&end=true", b"")
    ids = empty.json()["ids"]
    assert isinstance(ids, dict)
    assert list(ids) == ["a", "b", "c"]
    assert [ids["a"], ids["b"]] == [event.id for event in stream.events[2:]]


async def test_a_streamed_body_closes_after_its_end(server: Server) -> None:
    answer = await lines(server, "1", "2")
    body = answer.json()
    assert (answer.status, body["published"], body["closed"]) == (200, 2, True)
    assert (await about(server))["closed"] is True
    empty = await lines(server)
    assert (empty.status, empty.json()["published"], empty.json()["closed"]) == (200, 0, True)


@pytest.mark.parametrize(
    "framing", ["content-length: 1000", "transfer-encoding: chunked"], ids=["length", "chunked"]
)
async def test_a_streamed_body_that_is_cut_short_closes_nothing(server: Server, framing: str) -> None:
    head = f"POST /topics/answer?end=true HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-type: {NDJSON}\r\n{framing}\r\n\r\n"
    line = b'{"data": "1"}\n'
    part = line if "length" in framing else b"%x\r\n%b\r\n" % (len(line), line)
    _, writer = await server.send(head.encode() + part)
    stream = await server.subscribe("/topics/answer?since=earliest")
    await stream.data(1)
    writer.close()
    await server.publish("answer", "2")
    assert await stream.data(2) == ["1", "2"]
    assert (await about(server))["closed"] is False


async def test_a_bad_line_closes_nothing(server: Server) -> None:
    body = b'{"data": "1"}\n{"data": \n'
    answer = await server.request("POST", "/topics/answer?end=true", body, content_type=NDJSON)
    assert answer.status == 400
    assert (await about(server))["closed"] is False


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/topics/a?end=yes", {}),
        ("/topics/a?end=", {}),
        ("/topics?end=true", {"content_type": NDJSON}),
        ("/topics/a?retain=0s", {}),
        ("/topics/a?retain=25h", {}),
        ("/topics/a?retain=earliest", {}),
        ("/topics/a?retain=1", {"content_type": NDJSON}),
        ("/topics/a", {"broker_producer": "p", "broker_sequence": "1"}),
        ("/topics", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p"}),
        ("/topics/a", {"content_type": NDJSON, "broker_sequence": "1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p;q", "broker_sequence": "1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "0"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "-1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "9" * 16}),
    ],
)
async def test_what_is_outside_its_rule_is_refused(
    server: Server, target: str, headers: dict[str, str]
) -> None:
    answer = await server.request("POST", target, b'{"data": "x", "topic": "a"}', **headers)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    shown = await about(server, "a")
    assert (shown["events"], shown["closed"]) == (0, False)


async def test_a_repeated_key_gets_the_first_answer_also_where_it_closed_the_topic(server: Server) -> None:
    first = await end(server, "answer", "1", idempotency_key="k")
    again = await end(server, "answer", "1", idempotency_key="k")
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


# Reading


async def test_who_has_the_end_is_told_to_stop(server: Server) -> None:
    await end(server, "answer", "1")
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


async def test_who_lacks_something_gets_it_and_the_end(server: Server) -> None:
    one = await server.publish("answer", "1")
    await end(server, "answer", "2")
    stream = await server.subscribe("/topics/answer", last_event_id=one)
    await stream.end()
    assert [what for _, what, _ in told(stream)] == ["2", "answerclosed"]
    stream = await server.subscribe("/topics/answer", last_event_id=stream.events[0].id)
    await stream.end()
    assert [what for _, what, _ in told(stream)] == ["answerclosed"]


async def test_a_cursor_that_is_ahead_or_malformed_gets_its_gap_and_the_end(server: Server) -> None:
    await end(server, "answer", "1")
    ahead = format_id((1 << 127) + 5)
    for cursor, expected in (
        (ahead, ["broker.gap", "broker.end"]),
        ("x", ["broker.gap", None, "broker.end"]),
    ):
        stream = await server.subscribe("/topics/answer", last_event_id=cursor)
        await stream.end()
        assert stream.status == 200
        assert [event.type for event in stream.events] == expected


async def test_a_cursor_of_a_store_that_is_gone_is_told_lost_and_not_to_stop(
    serve: Serve, clock: Clock
) -> None:
    before = await serve()
    await end(before, "answer", "1")
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
    await end(server, "answer", "2")
    stream = await server.subscribe(f"/topics/answer{query}")
    await stream.end()
    assert (stream.status, [event.type for event in stream.events]) == (200, expected)
    assert json.loads(stream.events[-1].data) == {"topic": "answer", "reason": "closed"}
    await until(lambda: server.subscribers_of("answer") == 0, "it is subscribed no more")
    assert len(server.node.streams.hub) == 0


async def test_new_events_only_of_topics_of_which_some_have_ended(server: Server) -> None:
    """I1: the first `broker.open` brings no id, for the ends of the past lie before it."""
    for topic in ("b", "a"):
        await end(server, topic, "x")
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
    await end(server, "a", "x")
    stream = await server.subscribe("/topics?topic=a&topic=b")
    await stream.event(3)
    assert b'data: {"topics":["b"]}\n\n' in stream.body
    assert stream.events[2].id == stream.events[1].id, "none of its own"
    await server.publish("b", "new")
    assert await stream.data(1) == ["new"]


async def test_a_reader_of_several_topics_is_left_out_of_those_whose_end_it_has(server: Server) -> None:
    await end(server, "a", "x")
    middle = await server.publish("b", "1")
    await end(server, "c", "x")
    stream = await server.subscribe("/topics?topic=a&topic=b&topic=c", last_event_id=middle)
    await stream.event(2)
    await server.publish("b", "2")
    await stream.data(2)
    assert [what for _, what, _ in told(stream)] == ["x", "cclosed", "2"]
    await end(server, "b")
    await stream.end()
    cursor = stream.events[-1].id
    assert (await get(server, "/topics?topic=a&topic=b&topic=c", last_event_id=cursor)).status == 204
    open_one = await server.subscribe("/topics?topic=a&topic=d", last_event_id=cursor)
    await server.publish("d", "still")
    assert await open_one.data(1) == ["still"]


async def test_delete_opens_the_name_anew(server: Server) -> None:
    await end(server, "answer", "1")
    stream = await server.subscribe("/topics/answer?since=earliest")
    await stream.end()
    assert (await server.request("DELETE", "/topics/answer")).status == 204
    assert (await about(server))["closed"] is False
    again = await server.subscribe("/topics/answer", last_event_id=stream.events[-1].id)
    await server.publish("answer", "2")
    assert await again.data(1) == ["2"]
    assert [event.type for event in again.events] == [None], "no gap for who had seen everything"


async def test_the_list_shows_what_is_closed(server: Server) -> None:
    await end(server, "a", "x")
    await server.publish("b", "x")
    listed = (await server.request("GET", "/topics", accept="application/json")).json()["topics"]
    assert isinstance(listed, list)
    assert [(one["topic"], one["closed"]) for one in listed] == [("a", True), ("b", False)]


async def test_the_end_of_a_topic_without_events_left_outlives_them(serve: Serve, clock: Clock) -> None:
    server = await serve(retention_seconds=60)
    one = await server.publish("answer", "1")
    await end(server, "answer", "2")
    clock.now += 100
    stream = await server.subscribe("/topics/answer", last_event_id=one)
    await stream.end()
    assert [event.type for event in stream.events] == ["broker.gap", "broker.end"]
    assert (await get(server, "/topics/answer", last_event_id=stream.events[-1].id)).status == 204


# Retention, producers


async def test_the_first_publish_decides_how_long_its_topic_keeps_events(serve: Serve, clock: Clock) -> None:
    server = await serve(retention_seconds=60, retain_events=3)
    await server.publish("answer", "1", "?retain=2h")
    for number in range(3):
        await server.publish("answer", str(number), "?retain=1s")
    clock.now += 7100
    assert (await about(server))["events"] == 3
    clock.now += 200
    assert (await about(server))["events"] == 0


async def test_a_producer_that_repeats_part_of_its_stream_is_counted_once(server: Server) -> None:
    target = "/topics/answer"
    own = {"broker_producer": "model-1"}
    first = await lines(server, "1", "2", target=target, **own, broker_sequence="1")
    assert first.json()["known"] == 0
    again = await lines(server, "2", "3", "4", target=f"{target}?end=true", **own, broker_sequence="2")
    body = again.json()
    assert (body["published"], body["known"], body["closed"]) == (2, 1, True)
    stream = await server.subscribe(f"{target}?since=earliest")
    await stream.end()
    assert [event.data for event in stream.published()] == ["1", "2", "3", "4"]
    assert (body["first_id"], body["last_id"]) == tuple(event.id for event in stream.published()[2:])
    whole = await lines(server, "2", "3", "4", target=f"{target}?end=true", **own, broker_sequence="2")
    assert (whole.json()["published"], whole.json()["known"], whole.json()["closed"]) == (0, 3, True)
    assert whole.json()["first_id"] is None


async def test_a_hole_in_a_producers_stream_is_refused(server: Server) -> None:
    answer = await lines(server, "5", target="/topics/answer", broker_producer="p", broker_sequence="5")
    assert (answer.status, answer.json()["code"], answer.json()["expected"]) == (409, "out-of-order", 1)
    assert "Broker-Sequence: 1" in str(answer.json()["detail"])
    assert (await about(server))["events"] == 0


async def test_numbers_go_on_over_the_batches_of_a_body(server: Server) -> None:
    many = [str(number) for number in range(300)]
    for known in (0, 300):
        answer = await lines(server, *many, target="/topics/answer", broker_producer="p", broker_sequence="1")
        assert (answer.json()["published"], answer.json()["known"]) == (300 - known, known)
