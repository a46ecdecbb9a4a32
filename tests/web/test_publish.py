"""Publishing one event to one topic or several, with idempotency keys (contract §2)."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.support.http import read_answer, read_head
from tests.support.local_broker import Clock, Serve, Server
from tests.support.waiting import WAIT_SECONDS, until
from tests.web.streamed_body import NDJSON, kept, lines


async def test_answer_to_one_event(server: Server) -> None:
    answer = await server.request("POST", "/topics/news", b"hello")
    assert answer.status == 201
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["topic"] == "news"
    stream = await server.subscribe("/topics/news?since=earliest")
    assert (await stream.event(1)).id == body["id"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "application/x-www-form-urlencoded", "image/png"]
)
async def test_any_other_content_type_is_data(server: Server, content_type: str) -> None:
    answer = await server.request("POST", "/topics/news", b'{"a": 1}', content_type=content_type)
    assert answer.status == 201
    assert await kept(server) == [(None, '{"a": 1}')]


async def test_type_and_empty_data(server: Server) -> None:
    await server.publish("news", "", "?event=ping")
    assert await kept(server) == [("ping", "")]


@pytest.mark.parametrize(
    "event_type", ["", "broker.gap", "broker.", "a%0Ab", "a%0Db", "a%00b", "%FF", "x" * 101]
)
async def test_bad_type(server: Server, event_type: str) -> None:
    answer = await server.request("POST", f"/topics/news?event={event_type}", b"x")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_largest_event_and_one_byte_more(serve: Serve) -> None:
    server = await serve(max_event_bytes=1000)
    assert (await server.request("POST", "/topics/news", b"x" * 1000)).status == 201
    answer = await server.request("POST", "/topics/news", b"x" * 1001)
    assert (answer.status, answer.json()["code"]) == (413, "too-large")
    assert answer.headers["connection"] == "close"


async def test_too_large_chunked(serve: Serve) -> None:
    server = await serve(max_event_bytes=1000)
    reader, _writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1f4\r\n" + b"x" * 500 + b"\r\n" + b"1f5\r\n" + b"x" * 501 + b"\r\n"
    )
    status, _ = await read_head(reader)
    assert status == 413


@pytest.mark.parametrize("zeros", [20, 5000])
@pytest.mark.parametrize("content_type", ["text/plain", NDJSON])
async def test_a_length_may_have_leading_zeros(server: Server, zeros: int, content_type: str) -> None:
    """`Content-Length` is digits (RFC 9110 §8.6), and the head bounds how many."""
    reader, writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Type: "
        + content_type.encode()
        + b"\r\nContent-Length: "
        + b"0" * zeros
        + b"14\r\n\r\n"
    )
    assert (await read_head(reader))[0] == 100
    writer.write(b'{"data": "ab"}')
    assert (await read_answer(reader)).status in (200, 201)


async def test_body_that_is_not_utf8(server: Server) -> None:
    answer = await server.request("POST", "/topics/news", b"\xff\xfe")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-body")


async def test_ids_strictly_increase_when_the_clock_steps_back(server: Server, clock: Clock) -> None:
    first = await server.publish("news", "1")
    clock.now -= 3600
    second = await server.publish("other", "2")
    clock.now += 7200
    third = await server.publish("news", "3")
    numbers = [tuple(map(int, text.split("-"))) for text in (first, second, third)]
    assert numbers == sorted(set(numbers))


# NDJSON


async def test_cut_single_event_is_not_published(server: Server) -> None:
    reader, writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"
    )
    writer.write_eof()
    async with asyncio.timeout(WAIT_SECONDS):
        assert await reader.read() == b""
    assert await kept(server) == []


# Several topics


async def test_one_event_to_several_topics(server: Server) -> None:
    answer = await server.request("POST", "/topics?topic=a&topic=b&topic=a&event=t", b"x")
    assert answer.status == 201
    ids = answer.json()["ids"]
    assert isinstance(ids, dict)
    assert list(ids) == ["a", "b"]
    assert await kept(server, "a") == await kept(server, "b") == [("t", "x")]


async def test_all_or_none(server: Server) -> None:
    for bad, status in (("..", 400), ("_stats", 403)):
        answer = await server.request("POST", f"/topics?topic=a&topic={bad}", b"x")
        assert answer.status == status
    assert await kept(server, "a") == []


@pytest.mark.parametrize("query", ["", "?" + "&".join(f"topic=t{n}" for n in range(33))])
async def test_number_of_topics(server: Server, query: str) -> None:
    answer = await server.request("POST", f"/topics{query}", b"x")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


@pytest.mark.parametrize(
    "topic", ["a..b", ".a", "a.", "a%20b", "x" * 201, "a%2Fb", "%00", "caf%C3%A9", "a*", "{x}", "%7Bx%7D"]
)
async def test_bad_topic(server: Server, topic: str) -> None:
    answer = await server.request("POST", f"/topics/{topic}", b"x")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-topic")


async def test_topics_of_the_broker(server: Server) -> None:
    answer = await server.request("POST", "/topics/_stats", b"x")
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")


# Once only


async def test_same_key_publishes_once(server: Server, clock: Clock) -> None:
    first = await server.request("POST", "/topics/news", b"1", idempotency_key="k")
    second = await server.request("POST", "/topics/news", b"1", idempotency_key="k")
    assert (first.status, second.status) == (201, 201)
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    other_topic = await server.request("POST", "/topics/other", b"1", idempotency_key="k")
    assert "idempotency-replayed" not in other_topic.headers
    assert await kept(server) == [(None, "1")]
    clock.now += 301
    third = await server.request("POST", "/topics/news", b"1", idempotency_key="k")
    assert "idempotency-replayed" not in third.headers


async def test_same_key_at_the_same_time(server: Server) -> None:
    answers = await asyncio.gather(
        *(server.request("POST", "/topics/news", b"1", idempotency_key="k") for _ in range(20))
    )
    assert len({str(answer.json()["id"]) for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19


async def test_same_key_on_several_topics(server: Server) -> None:
    first = await server.request("POST", "/topics?topic=a&topic=b", b"1", idempotency_key="k")
    again = await server.request("POST", "/topics?topic=a&topic=b", b"1", idempotency_key="k")
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    wider = await server.request("POST", "/topics?topic=b&topic=c", b"1", idempotency_key="k")
    assert "idempotency-replayed" not in wider.headers
    assert wider.json()["ids"]["b"] == first.json()["ids"]["b"]
    assert await kept(server, "b") == [(None, "1")]


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "\u00e9"])
async def test_bad_key(server: Server, key: str) -> None:
    answer = await server.request("POST", "/topics/news", b"1", idempotency_key=key)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_key_with_a_streamed_body(server: Server) -> None:
    answer = await server.request("POST", "/topics/news", b"", content_type=NDJSON, idempotency_key="k")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_keys_are_bounded_in_bytes(serve: Serve, clock: Clock) -> None:
    server = await serve(idempotency_memory_bytes=3000)
    statuses = [
        (await server.request("POST", "/topics/news", b"1", idempotency_key=f"k{number}")).status
        for number in range(20)
    ]
    assert statuses[0] == 201
    assert statuses[-1] == 429
    refused = await server.request("POST", "/topics/news", b"1", idempotency_key="new")
    assert refused.json()["code"] == "rate-limited"
    assert int(refused.headers["retry-after"]) > 0
    assert len(await kept(server)) == statuses.count(201)
    clock.now += 301
    assert (await server.request("POST", "/topics/news", b"1", idempotency_key="new")).status == 201


async def test_publisher_faster_than_fan_out_waits_and_no_event_is_lost(serve: Serve) -> None:
    server = await serve(retention_events=1)
    streams = [await server.subscribe("/topics/news") for _ in range(20)]
    for stream in streams:
        await stream.event(1)
    body = "".join(f'{{"data": "{number}"}}\n' for number in range(5000))
    publishing = asyncio.ensure_future(lines(server, body))
    expected = [str(number) for number in range(5000)]
    assert all(data == expected for data in await asyncio.gather(*(stream.data(5000) for stream in streams)))
    assert (await publishing).status == 200


@pytest.mark.parametrize(
    "coding",
    [{"content_encoding": "gzip"}, {"content_encoding": "br"}, {"content_encoding": "gzip, identity"}],
)
async def test_compressed_bodies_are_refused(server: Server, coding: dict[str, str]) -> None:
    for content_type in ("text/plain", NDJSON):
        answer = await server.request(
            "POST", "/topics/news", gzip.compress(b"x"), content_type=content_type, **coding
        )
        assert (answer.status, answer.json()["code"]) == (400, "invalid-body")


async def test_i7_what_was_answered_is_in_the_store(serve: Serve) -> None:
    """Once it is answered, every kind of read has the event, and every subscriber gets it."""
    server = await serve()
    stream = await server.subscribe("/topics/news")
    opening = await stream.event(1)
    answered = []
    for number in range(50):
        answered.append(await server.publish("news", str(number)))
        late = await server.subscribe("/topics/news", last_event_id=opening.id)
        await late.data(number + 1)
        assert [event.id for event in late.published()] == answered
        await late.close()
    await stream.data(50)
    assert [event.id for event in stream.published()] == answered


@pytest.mark.uncompiled
async def test_a_publish_that_waits_for_subscribers_continues_when_they_are_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    monkeypatch.setattr(server.node.streams.hub.fan_out, "_turn", lambda: None)  # nothing is written any more
    for _ in range(5):
        await server.publish("news", "x" * 250_000)
    waiting = asyncio.ensure_future(server.publish("news", "x"))
    await until(lambda: server.node._backpressure.queued, "a publisher waits")
    server.node.streams.cut()
    assert await waiting
