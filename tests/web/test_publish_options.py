"""The options of a publish, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.web.streamed_body import (
    EVENT_STREAM,
    NDJSON,
    StreamedBody,
    close_topic,
    describe,
    events,
    send_part,
    told,
)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/topics/a?end=maybe", {}),
        ("/topics/a?end=on-disconnect", {}),
        ("/topics/a?retain=soon", {}),
        ("/topics/a?retain=0s", {}),
        ("/topics/a?retain=25h", {}),
        ("/topics/a", {"broker_producer": "p", "broker_sequence": "1"}),
        ("/topics/a?last_viewer=x", {"content_type": EVENT_STREAM}),
        ("/topics/a", {"content_type": EVENT_STREAM, "broker_producer": "p"}),
        ("/topics/a", {"content_type": EVENT_STREAM, "broker_sequence": "1"}),
        ("/topics/a", {"content_type": EVENT_STREAM, "broker_producer": "p", "broker_sequence": "0"}),
        ("/topics/a", {"content_type": EVENT_STREAM, "broker_producer": "p", "broker_sequence": "-1"}),
        ("/topics/a", {"content_type": EVENT_STREAM, "broker_producer": "p", "broker_sequence": "9" * 17}),
        ("/topics/a", {"content_type": EVENT_STREAM, "broker_producer": "x" * 101, "broker_sequence": "1"}),
        ("/topics?end=true", {"content_type": NDJSON}),
        ("/topics?end=true&reason=failed", {"content_type": NDJSON}),
        ("/topics/a?reason=failed", {}),
        ("/topics/a?end=false&reason=failed", {}),
        ("/topics/a?reason=failed", {"content_type": EVENT_STREAM}),
        *(
            (f"/topics/a?end=true&reason={word}", {"content_type": kind})
            for kind in ("text/plain", EVENT_STREAM, NDJSON)
            for word in (
                "",
                "Failed",
                "a_b",
                "a.b",
                "a%20b",
                "%C3%A4",
                "x" * 41,
                "x%0A",
                "deleted",
                "abandoned",
                "cancelled",
            )
        ),
        ("/topics", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "1"}),
        ("/topics/a?end=yes", {}),
        ("/topics/a?end=", {}),
        ("/topics/a?retain=earliest", {}),
        ("/topics/a?retain=1", {"content_type": NDJSON}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p"}),
        ("/topics/a", {"content_type": NDJSON, "broker_sequence": "1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p;q", "broker_sequence": "1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "0"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "-1"}),
        ("/topics/a", {"content_type": NDJSON, "broker_producer": "p", "broker_sequence": "9" * 16}),
    ],
    ids=str,
)
@pytest.mark.parametrize("body", [b"", b'{"data": "x", "topic": "a"}'], ids=["empty", "line"])
async def test_malformed_options_are_refused(
    server: Server, target: str, headers: dict[str, str], body: bytes
) -> None:
    answer = await server.request("POST", target, body, **headers)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    shown = await describe(server, "a")
    assert (shown["events"], shown["closed"]) == (0, False)


async def test_the_first_publish_sets_the_retention(serve: Serve, clock: Any) -> None:
    server = await serve(retention_seconds=60, retention_events=2)
    body = await StreamedBody.open(server, "/topics/a?retain=24h")
    await body.send(events(*(str(number) for number in range(50))))
    await body.end()
    clock.now += 3600
    stream = await server.subscribe("/topics/a?since=earliest")
    assert len(await stream.data(50)) == 50


async def test_a_repeated_part_counts_once(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    first = await send_part(server, 1, "1", "2", "3")
    assert (first.json()["published"], first.json()["known"]) == (3, 0)
    again = await send_part(server, 2, "2", "3", "4", "5")
    assert (again.status, again.json()["published"], again.json()["known"]) == (200, 2, 2)
    repeated = await send_part(server, 1, "1", "2", end="true")
    assert (repeated.json()["published"], repeated.json()["known"], repeated.json()["closed"]) == (0, 2, True)
    await stream.end()
    assert [event.data for event in stream.published()] == ["1", "2", "3", "4", "5"]


async def test_a_hole_in_the_sequence_is_409_with_the_expected_number(server: Server) -> None:
    await send_part(server, 1, "1", "2")
    body = await StreamedBody.open(server, broker_producer="p", broker_sequence="4")
    await body.send(events("4"))
    answer = await body.answer()
    assert (answer.status, answer.json()["code"]) == (409, "out-of-order")
    assert (answer.json()["expected"], answer.json()["published"]) == (3, 0)
    assert (await describe(server))["events"] == 2


async def lines(
    server: Server, *data: object, target: str = "/topics/answer?end=true", **headers: str
) -> Answer:
    body = "".join(json.dumps({"data": one}) + "\n" for one in data)
    return await server.request("POST", target, body.encode(), content_type=NDJSON, **headers)


async def test_the_last_event_closes_the_topic(server: Server) -> None:
    stream = await server.subscribe("/topics/answer")
    await stream.event(1)
    answer = await close_topic(server, "answer", "that's all")
    body = answer.json()
    assert body == {"topic": "answer", "id": body["id"], "closed": True}
    raw = await stream.end()
    _, event, last = stream.events
    assert (event.data, event.id) == ("that's all", body["id"])
    assert raw.endswith(
        f'event: broker.end\ndata: {{"topic":"answer","reason":"closed"}}\nid: {last.id}\n\n'.encode()
    )
    assert (await describe(server, "answer"))["closed"] is True


async def test_an_empty_body_closes_without_an_event(server: Server) -> None:
    await server.publish("answer", "1")
    closed = (await close_topic(server, "answer")).json()
    assert closed["closed"] is True
    assert (await close_topic(server, "answer")).json() == closed, "closing again is fine"
    stream = await server.subscribe("/topics/answer?since=earliest")
    await stream.end()
    assert [(kind, what) for kind, what, _ in told(stream)] == [(None, "1"), ("broker.end", "answerclosed")]
    assert stream.events[-1].id == closed["id"]
    assert (await describe(server, "answer"))["events"] == 1


async def test_an_empty_body_without_end_is_an_event(server: Server) -> None:
    await server.publish("answer", "", "?end=false")
    shown = await describe(server, "answer")
    assert (shown["events"], shown["closed"]) == (1, False)


async def test_a_later_publish_is_refused(server: Server) -> None:
    await close_topic(server, "answer", "1")
    for answer in (
        await server.request("POST", "/topics/answer", b"2"),
        await server.request("POST", "/topics/answer?end=true", b"2"),
        await server.request("POST", "/topics?topic=other&topic=answer", b"2"),
        await lines(server, "2"),
    ):
        assert (answer.status, answer.json()["code"]) == (409, "closed")
        assert answer.json()["topics"] == ["answer"]
        assert "DELETE" in str(answer.json()["detail"])
    assert (await describe(server, "other"))["events"] == 0


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
    assert (await describe(server, "answer"))["closed"] is True
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
    assert (await describe(server, "answer"))["closed"] is False


async def test_a_bad_line_closes_nothing(server: Server) -> None:
    body = b'{"data": "1"}\n{"data": \n'
    answer = await server.request("POST", "/topics/answer?end=true", body, content_type=NDJSON)
    assert answer.status == 400
    assert (await describe(server, "answer"))["closed"] is False


async def test_a_repeated_key_gets_the_first_answer_even_if_it_closed_the_topic(server: Server) -> None:
    first = await close_topic(server, "answer", "1", idempotency_key="k")
    again = await close_topic(server, "answer", "1", idempotency_key="k")
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


async def test_the_first_publish_decides_how_long_its_topic_keeps_events(serve: Serve, clock: Clock) -> None:
    server = await serve(retention_seconds=60, retain_events=3)
    await server.publish("answer", "1", "?retain=2h")
    for number in range(3):
        await server.publish("answer", str(number), "?retain=1s")
    clock.now += 7100
    assert (await describe(server, "answer"))["events"] == 3
    clock.now += 200
    assert (await describe(server, "answer"))["events"] == 0


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
    assert (await describe(server, "answer"))["events"] == 0


async def test_numbers_go_on_over_the_batches_of_a_body(server: Server) -> None:
    many = [str(number) for number in range(300)]
    for known in (0, 300):
        answer = await lines(server, *many, target="/topics/answer", broker_producer="p", broker_sequence="1")
        assert (answer.json()["published"], answer.json()["known"]) == (300 - known, known)


async def ends(server: Server, topic: str = "a") -> list[str]:
    """The reason of the topic's end, as a subscriber reads it."""
    stream = await server.subscribe(f"/topics/{topic}?since=earliest")
    await stream.end()
    return [json.loads(event.data)["reason"] for event in stream.events if event.type == "broker.end"]


@pytest.mark.parametrize("word", ["failed", "stopped", "closed", "a", "0-9", "-", "x" * 40])
async def test_the_publisher_says_why_it_ended(server: Server, word: str) -> None:
    stream = await server.subscribe("/topics/a")
    await close_topic(server, "a", "last", f"?end=true&reason={word}")
    await stream.end()
    assert told(stream)[1:] == [
        (None, "last", stream.events[1].id),
        ("broker.end", f"a{word}", stream.events[2].id),
    ]
    assert await ends(server) == [word]


async def test_an_end_without_an_event_says_why(server: Server) -> None:
    await server.publish("a", "x")
    await close_topic(server, "a", "", "?end=true&reason=failed")
    assert await ends(server) == ["failed"]


async def test_the_first_reason_stands(server: Server) -> None:
    await close_topic(server, "a", "", "?end=true&reason=failed")
    for query in ("?end=true&reason=stopped", "?end=true"):
        answer = await close_topic(server, "a", "", query)
        assert answer.json()["closed"] is True
    assert await ends(server) == ["failed"]


async def test_several_topics_end_for_one_reason(server: Server) -> None:
    await server.publish("b", "x", "?end=true&reason=first")
    await server.publish("b2", "x")
    answer = await server.request("POST", "/topics?topic=b&topic=b2&end=true&reason=second")
    assert (answer.status, answer.json()["closed"]) == (201, True)
    assert (await ends(server, "b"), await ends(server, "b2")) == (["first"], ["second"])


@pytest.mark.parametrize("kind", [EVENT_STREAM, NDJSON])
@pytest.mark.parametrize("end", ["true", "on-disconnect"])
async def test_a_streamed_body_says_why(server: Server, kind: str, end: str) -> None:
    body = await StreamedBody.open(server, f"/topics/a?end={end}&reason=length", content_type=kind)
    await body.send(b'{"data": "x"}\n' if kind == NDJSON else events("x"))
    assert (await body.end()).json()["closed"] is True
    assert await ends(server) == ["length"]
