"""The bytes of a stream, and where it starts (contract §3)."""

from __future__ import annotations

import json
import re

import pytest

from broker.events import format_id, id_at, parse_id, rfc3339
from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Clock, Serve, Server
from tests.support.waiting import until

GAP = "broker.gap"


async def publish_many(server: Server, topic: str, *data: str) -> list[str]:
    return [await server.publish(topic, text) for text in data]


def gaps(stream: AsyncStream) -> list[dict[str, str]]:
    return [json.loads(event.data) for event in stream.events if event.type == GAP]


async def test_head_and_first_bytes(server: Server) -> None:
    stream = await server.subscribe("/topics/news")
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-cache, no-transform"
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.headers["x-content-type-options"] == "nosniff"
    assert stream.headers["vary"] == "Accept"
    assert "content-length" not in stream.headers
    assert stream.headers["transfer-encoding"] == "chunked"
    assert stream.headers["connection"] == "close"
    await stream.event(1)
    opening = re.fullmatch(
        rb'retry: (\d+)\n:\nevent: broker.open\ndata: {"topics":\["news"\]}\nid: (\d+-\d+)\n\n', stream.body
    )
    assert opening
    assert 2000 <= int(opening[1]) <= 5000


async def test_bytes_of_events(server: Server) -> None:
    stream = await server.subscribe("/topics/news?since=earliest")
    await stream.until(lambda: stream.body.endswith(b"\n:\n"))
    before = len(stream.body)
    ids = [
        await server.publish("news", "one\r\ntwo\rthree\nfour\u2028five\u0085six"),
        await server.publish("news", ""),
        await server.publish("news", " spaced", "?event=a%20type"),
        await server.publish("news", "ends\n"),
    ]
    await stream.until(lambda: len(stream.events) == 4)
    assert stream.body[before:].decode() == (
        f"data: one\ndata: two\ndata: three\ndata: four\u2028five\u0085six\nid: {ids[0]}\n\n"
        f"data: \nid: {ids[1]}\n\n"
        f"event: a type\ndata:  spaced\nid: {ids[2]}\n\n"
        f"data: ends\ndata: \nid: {ids[3]}\n\n"
    )


async def test_retry_is_random_per_connection(server: Server) -> None:
    streams = [await server.subscribe("/topics/news") for _ in range(8)]
    for stream in streams:
        await stream.event(1)
    assert len({stream.retry_ms for stream in streams}) > 1


async def test_cursor_header_goes_on_without_hole_or_double(server: Server) -> None:
    ids = await publish_many(server, "news", "1", "2", "3")
    stream = await server.subscribe("/topics/news", last_event_id=ids[0])
    await server.publish("news", "4")
    assert await stream.data(3) == ["2", "3", "4"]
    assert not gaps(stream)
    assert stream.events[0].type is None  # no broker.open


async def test_last_event_id_wins_over_the_query(server: Server) -> None:
    ids = await publish_many(server, "news", "1", "2", "3")
    stream = await server.subscribe(
        f"/topics/news?lastEventId={ids[0]}&since=earliest&last=3", last_event_id=ids[1]
    )
    assert await stream.data(1) == ["3"]
    stream = await server.subscribe(f"/topics/news?lastEventId={ids[0]}&since=earliest", last_event_id="")
    assert await stream.data(2) == ["2", "3"]
    stream = await server.subscribe("/topics/news?lastEventId=&since=earliest&last=1")
    assert await stream.data(3) == ["1", "2", "3"]


@pytest.mark.parametrize("since", ["earliest", "10m", "600s", "1h", "0-0"])
async def test_since_reaches_back(server: Server, since: str) -> None:
    await publish_many(server, "news", "1", "2")
    stream = await server.subscribe(f"/topics/news?since={since}")
    assert await stream.data(2) == ["1", "2"]


async def test_since_a_time(server: Server, clock: Clock) -> None:
    await server.publish("news", "old")
    clock.now += 60
    await server.publish("news", "new")
    time = rfc3339(clock.now - 30)
    for text in (time, time.replace("Z", "%2B00:00"), time.replace("Z", "+00:00")):
        stream = await server.subscribe(f"/topics/news?since={text}")
        assert await stream.data(1) == ["new"]
        assert not gaps(stream)
    stream = await server.subscribe("/topics/news?since=45s")
    assert await stream.data(1) == ["new"]


async def test_times_are_right_again_after_the_clock_was_wrong(server: Server, clock: Clock) -> None:
    clock.now += 10 * 365 * 86_400
    await server.publish("news", "wrong")
    clock.now -= 10 * 365 * 86_400
    before = await server.publish("news", "old")
    clock.now += 60
    await server.publish("news", "new")
    for since in ("45s", rfc3339(clock.now - 45)):
        stream = await server.subscribe(f"/topics/news?since={since}&envelope=json")
        event = json.loads((await stream.event(1)).data)
        assert (event["data"], event["time"]) == ("new", rfc3339(clock.now))
    stream = await server.subscribe("/topics/news", last_event_id=before)
    assert await stream.data(1) == ["new"]


async def test_since_the_future_is_now(server: Server) -> None:
    stream = await server.subscribe("/topics/news?since=2099-01-01T00:00:00Z")
    await server.publish("news", "1")
    assert await stream.data(1) == ["1"]


async def test_since_an_id_is_exclusive_and_a_cursor(server: Server) -> None:
    ids = await publish_many(server, "news", "1", "2")
    stream = await server.subscribe(f"/topics/news?since={ids[0]}")
    assert await stream.data(1) == ["2"]


async def test_since_latest_opens_with_the_stores_last_id(server: Server) -> None:
    await server.publish("news", "1")
    last = await server.publish("other", "2")
    stream = await server.subscribe("/topics/news?since=latest")
    opening = await stream.event(1)
    assert (opening.type, opening.id) == ("broker.open", last)


async def test_last_n(server: Server) -> None:
    await publish_many(server, "news", "1", "2", "3")
    for count, expected in ((1, ["3"]), (2, ["2", "3"]), (9, ["1", "2", "3"])):
        stream = await server.subscribe(f"/topics/news?last={count}")
        assert await stream.data(len(expected)) == expected
        assert not gaps(stream)


async def test_last_n_of_nothing_gives_a_cursor_so_that_a_reconnect_misses_nothing(server: Server) -> None:
    stream = await server.subscribe("/topics?topic=a&topic=b&last=1")
    opening = await stream.event(1)
    assert opening.type == "broker.open"
    await stream.close()
    for number in range(3):
        await server.publish("ab"[number % 2], str(number))
    again = await server.subscribe("/topics?topic=a&topic=b&last=1", last_event_id=opening.id)
    assert await again.data(3) == ["0", "1", "2"]


async def test_largest_event_in_the_envelope_form(serve: Serve) -> None:
    server = await serve(max_event_bytes=20_000_000, retention_bytes=100_000_000)
    stream = await server.subscribe("/topics/a?envelope=json")
    await stream.event(1)
    await server.publish("a", "\n" * 3_000_000)
    await server.publish("b", "fan-out goes on")
    assert json.loads((await stream.event(2)).data)["data"] == "\n" * 3_000_000
    assert (await server.request("GET", "/readyz")).status == 200


@pytest.mark.parametrize(
    "query",
    [
        "since=",
        "since=yesterday",
        "since=2026-01-01",
        "since=20250101T10Z",
        "since=2025-W01-1T00:00:00Z",
        "since=2025-01-01T00:00:00",
        "since=%D9%A1%D9%A0m",
        "since=5d",
        "since=1-",
        "last=",
        "last=-1",
        "last=x",
        "envelope=xml",
    ],
)
async def test_bad_start_is_400(server: Server, query: str) -> None:
    answer = await server.request("GET", f"/topics/news?{query}", accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1", "1-2-3", "99999999999999999999-0", "1 -0", "\u00e9"]
)
@pytest.mark.parametrize("carrier", ["header", "query"])
async def test_malformed_cursor_is_a_gap_then_everything(server: Server, cursor: str, carrier: str) -> None:
    await publish_many(server, "news", "1", "2")
    if carrier == "header":
        stream = await server.subscribe("/topics/news", last_event_id=cursor)
    else:
        text = "".join(f"%{byte:02x}" for byte in cursor.encode())
        stream = await server.subscribe(f"/topics/news?lastEventId={text}")
    assert stream.status == 200
    assert await stream.data(2) == ["1", "2"]
    (gap,) = gaps(stream)
    assert gap["topic"] == "news"
    assert gap["reason"] == "unknown-id"
    assert stream.events[0].type == GAP
    assert stream.events[0].id == ""


async def test_cursor_ahead_of_the_store_is_a_gap_then_new_events(server: Server) -> None:
    (last,) = await publish_many(server, "news", "1")
    number = parse_id(last)
    assert number is not None
    ahead = format_id(number + id_at(3600))
    stream = await server.subscribe("/topics/news", last_event_id=ahead)
    await stream.event(1)
    await server.publish("news", "2")
    assert await stream.data(1) == ["2"]
    assert gaps(stream) == [{"topic": "news", "after": ahead, "reason": "unknown-id"}]


async def test_cursor_from_before_the_store_was_born_is_lost(server: Server) -> None:
    await server.publish("news", "1")
    stream = await server.subscribe("/topics/news", last_event_id="1000-0")
    assert await stream.data(1) == ["1"]
    assert gaps(stream) == [{"topic": "news", "after": "1000-0", "reason": "lost"}]


async def test_trimmed_events_are_a_gap(serve: Serve) -> None:
    server = await serve(retention_events=2)
    ids = await publish_many(server, "news", "1", "2", "3", "4")
    stream = await server.subscribe("/topics/news", last_event_id=ids[0])
    assert await stream.data(2) == ["3", "4"]
    assert gaps(stream) == [{"topic": "news", "after": ids[0], "reason": "trimmed"}]
    stream = await server.subscribe("/topics/news", last_event_id=ids[1])
    assert await stream.data(2) == ["3", "4"]
    assert not gaps(stream)


async def test_topic_silent_for_longer_than_retention_has_no_gap(serve: Serve, clock: Clock) -> None:
    server = await serve(retention_seconds=60)
    (last,) = await publish_many(server, "news", "1")
    clock.now += 3600
    stream = await server.subscribe("/topics/news", last_event_id=last)
    await server.publish("news", "2")
    assert await stream.data(1) == ["2"]
    assert not gaps(stream)


async def test_a_topic_trimmed_to_nothing_has_a_gap(serve: Serve, clock: Clock) -> None:
    server = await serve(retention_seconds=60)
    first, _ = await publish_many(server, "news", "1", "2")
    clock.now += 3600
    stream = await server.subscribe("/topics/news", last_event_id=first)
    assert (await stream.event(1)).type == GAP
    assert gaps(stream)[0]["reason"] == "trimmed"


async def test_dropped_before_its_first_event_comes_back_by_the_opening_id(server: Server) -> None:
    await server.publish("other", "x")
    stream = await server.subscribe("/topics/news")
    opening = await stream.event(1)
    await stream.close()
    await server.publish("news", "1")
    stream = await server.subscribe("/topics/news", last_event_id=opening.id)
    assert await stream.data(1) == ["1"]
    assert not gaps(stream)


async def test_several_topics_on_one_connection_with_one_cursor(server: Server) -> None:
    stream = await server.subscribe("/topics?topic=a&topic=b")
    await stream.event(1)
    for number in range(6):
        await server.publish("ab"[number % 2], str(number))
    await server.publish("c", "not asked for")
    assert await stream.data(6) == ["0", "1", "2", "3", "4", "5"]
    third = stream.published()[2].id
    again = await server.subscribe("/topics?topic=b&topic=a", last_event_id=third)
    assert await again.data(3) == ["3", "4", "5"]
    assert not gaps(again)


async def test_last_n_of_each_topic(server: Server) -> None:
    await publish_many(server, "a", "a1", "a2", "a3")
    await publish_many(server, "b", "b1", "b2", "b3")
    stream = await server.subscribe("/topics?topic=a&topic=b&last=2")
    assert await stream.data(4) == ["a2", "a3", "b2", "b3"]
    await server.publish("a", "a4")
    await server.publish("b", "b4")
    assert (await stream.data(6))[4:] == ["a4", "b4"]


async def test_gap_in_one_of_several_topics(serve: Serve) -> None:
    server = await serve(retention_overrides={"a": {"events": 1}})
    first = await server.publish("a", "a1")
    await publish_many(server, "b", "b1")
    await publish_many(server, "a", "a2", "a3")
    await publish_many(server, "b", "b2")
    stream = await server.subscribe("/topics?topic=a&topic=b", last_event_id=first)
    assert await stream.data(3) == ["b1", "a3", "b2"]
    assert gaps(stream) == [{"topic": "a", "after": first, "reason": "trimmed"}]
    await server.publish("a", "a4")
    assert (await stream.data(4))[3] == "a4"


async def test_envelope(server: Server, clock: Clock) -> None:
    event_id = await server.publish("a", 'line\n"two" \u2028', "?event=kind")
    plain_id = await server.publish("b", "x")
    stream = await server.subscribe("/topics?topic=a&topic=b&since=earliest&envelope=json")
    typed, plain = [await stream.event(1), await stream.event(2)]
    assert typed.type is None
    assert b"event:" not in stream.body
    assert json.loads(typed.data) == {
        "topic": "a",
        "id": event_id,
        "event": "kind",
        "time": rfc3339(int(event_id.split("-")[0]) / 1000),
        "data": 'line\n"two" \u2028',
    }
    assert json.loads(plain.data)["event"] is None
    assert plain.id == plain_id
    live = await server.subscribe("/topics/a?envelope=json")
    assert (await live.event(1)).type == "broker.open"
    await server.publish("a", "y")
    assert json.loads((await live.event(2)).data)["data"] == "y"


@pytest.mark.parametrize(
    "target", ["/topics", "/topics?topic=", "/topics?topic=a&topic=..", "/topics?envelope=json"]
)
async def test_bad_topics_are_400(server: Server, target: str) -> None:
    answer = await server.request("GET", target, accept="text/event-stream")
    assert answer.status == 400


async def test_at_most_32_topics(server: Server) -> None:
    query = "&".join(f"topic=t{number}" for number in range(32))
    stream = await server.subscribe(f"/topics?{query}")
    assert stream.status == 200
    answer = await server.request("GET", f"/topics?{query}&topic=more", accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_head_request(server: Server) -> None:
    answer = await server.request("HEAD", "/topics/news")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert "broker_subscribers 0" in (await server.request("GET", "/metrics")).body.decode()


async def test_over_capacity(serve: Serve) -> None:
    # aiohttp notices by a heartbeat that a subscriber has left
    server = await serve(max_connections=1, heartbeat_seconds=1)
    first = await server.subscribe("/topics/news")
    await first.event(1)
    browser = await server.subscribe("/topics/news")
    assert (browser.status, browser.headers["content-type"]) == (200, "text/event-stream")
    body = await browser.end()
    assert re.fullmatch(rb"retry: \d+\n", body)
    assert int(body.split()[1]) >= 10_000
    other = await server.request("GET", "/topics/news", accept="*/*")
    assert (other.status, other.json()["code"]) == (503, "overloaded")
    assert int(other.headers["retry-after"]) > 0
    await server.publish("news", "still here")
    assert await first.data(1) == ["still here"]
    await first.close()
    await until(lambda: _count(server) == 0, "room again")
    again = await server.subscribe("/topics/news")
    assert (await again.event(1)).type == "broker.open"


def _count(server: Server) -> int:
    return int(server.node.metrics.registry.get_sample_value("broker_subscribers") or 0)


async def test_heartbeat_after_silence_is_two_bytes(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=0.1)
    stream = await server.subscribe("/topics/news?since=earliest")
    await stream.until(lambda: stream.body.count(b":\n") >= 4)
    assert re.fullmatch(rb"retry: \d+\n(:\n)+", stream.body)
    assert not stream.events


async def test_deleted_topic_ends_its_streams(server: Server) -> None:
    first, last = await publish_many(server, "news", "1", "2")
    stream = await server.subscribe("/topics/news", last_event_id=first)
    assert await stream.data(1) == ["2"]
    assert (await server.request("DELETE", "/topics/news")).status == 204
    await stream.end()
    end = stream.events[-1]
    assert end.type == "broker.end"
    assert json.loads(end.data) == {"topic": "news", "reason": "deleted"}
    seen_all = [await server.subscribe("/topics/news", last_event_id=cursor) for cursor in (last, end.id)]
    await server.publish("news", "3")
    for again in seen_all:
        assert await again.data(1) == ["3"]
        assert not gaps(again)
    late = await server.subscribe("/topics/news", last_event_id=first)
    assert (await late.event(1)).type == GAP
    assert gaps(late)[0]["reason"] == "trimmed"


async def test_deleting_one_of_several_topics_leaves_the_others(server: Server) -> None:
    stream = await server.subscribe("/topics?topic=a&topic=b")
    await stream.event(1)
    await server.publish("a", "a1")
    await server.request("DELETE", "/topics/a")
    await server.publish("b", "b1")
    await server.publish("a", "a2: not for a stream on which the topic has ended")
    await server.publish("b", "b2")
    assert await stream.data(3) == ["a1", "b1", "b2"]
    await server.request("DELETE", "/topics/b")
    await stream.end()
    assert [event.type for event in stream.events].count("broker.end") == 2


async def test_a_stream_ends_before_its_maximum_age_with_a_reconnect_delay(serve: Serve) -> None:
    server = await serve(max_age_seconds=0.5, heartbeat_seconds=0.2)
    stream = await server.subscribe("/topics/news")
    assert re.fullmatch(rb"retry: \d+\n", (await stream.end()).splitlines(keepends=True)[-1])
    await until(
        lambda: b'broker_closes_total{reason="max-age"} 1.0' in server.node.metrics.text(), "it is counted"
    )
