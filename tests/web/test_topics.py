"""Descriptions, the list of topics, and DELETE (contract §4)."""

from __future__ import annotations

import pytest

from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.waiting import until
from tests.web.streamed_body import (
    close_topic,
    describe,
)

JSON = "application/json"


async def info(server: Server, topic: str) -> dict[str, object]:
    answer = await server.request("GET", f"/topics/{topic}", accept=JSON)
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Accept"
    return answer.json()


async def test_info(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=1)  # aiohttp notices by it that a subscriber has left
    empty = {
        "topic": "news",
        "subscribers": 0,
        "events": 0,
        "bytes": 0,
        "first_id": None,
        "last_id": None,
        "closed": False,
    }
    assert await info(server, "news") == empty
    first = await server.publish("news", "1")
    last = await server.publish("news", "2")
    stream = await server.subscribe("/topics?topic=news&topic=other")
    await stream.event(1)
    found = await info(server, "news")
    assert int(str(found.pop("bytes"))) > 0
    assert found == {
        "topic": "news",
        "subscribers": 1,
        "events": 2,
        "first_id": first,
        "last_id": last,
        "closed": False,
    }
    await stream.close()
    await until(lambda: not server.subscribers_of("news"), "the subscriber has left")
    assert (await info(server, "other"))["subscribers"] == 0


async def test_reading_a_description_does_not_create_a_topic(server: Server) -> None:
    await info(server, "news")
    assert (await server.request("GET", "/topics", accept=JSON)).json() == {"topics": [], "next": None}


async def test_retention_by_count_bytes_and_age(serve: Serve, clock: Clock) -> None:
    server = await serve(
        retention_events=3,
        retention_overrides={"big.*": {"bytes": 1000}, "short.**": {"seconds": 5, "events": 100}},
    )
    for _ in range(10):
        await server.publish("a", "x")
        await server.publish("big.a", "x" * 400)
        await server.publish("short.a.b", "x")
    assert (await info(server, "a"))["events"] == 3
    big = await info(server, "big.a")
    assert big["events"] == 2
    assert int(str(big["bytes"])) <= 1000
    assert (await info(server, "short.a.b"))["events"] == 10
    clock.now += 6
    assert (await info(server, "short.a.b"))["events"] == 0
    assert (await info(server, "a"))["events"] == 3


async def test_an_event_larger_than_the_retention_is_kept_until_the_next(serve: Serve) -> None:
    server = await serve(retention_bytes=100)
    await server.publish("a", "x" * 1000)
    assert (await info(server, "a"))["events"] == 1
    await server.publish("a", "y")
    assert (await info(server, "a"))["events"] == 1


async def test_list_is_paged(server: Server) -> None:
    names = [f"t{number:02}" for number in range(25)]
    members = set(await info(server, "t00"))
    for name in reversed(names):
        await server.publish(name, "x")
    found: list[object] = []
    after: object = ""
    pages = 0
    while after is not None:
        page = (await server.request("GET", f"/topics?limit=10&after={after}", accept=JSON)).json()
        topics = page["topics"]
        assert isinstance(topics, list)
        found += [topic["topic"] for topic in topics]
        assert all(set(topic) == members for topic in topics)
        after = page["next"]
        pages += 1
    assert found == names
    assert pages == 3


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", ""])
async def test_bad_limit(server: Server, limit: str) -> None:
    answer = await server.request("GET", f"/topics?limit={limit}", accept=JSON)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")


async def test_delete(server: Server) -> None:
    await server.publish("news", "1")
    answer = await server.request("DELETE", "/topics/news")
    assert (answer.status, answer.body) == (204, b"")
    assert (await info(server, "news"))["events"] == 0
    assert (await server.request("DELETE", "/topics/never-named")).status == 204
    assert (await server.request("DELETE", "/topics/a..b")).status == 400
    assert (await server.request("DELETE", "/topics/_stats")).status == 403
    await server.publish("news", "2")
    assert (await info(server, "news"))["events"] == 1


async def test_the_number_of_topics_is_bounded_with_a_gap(serve: Serve) -> None:
    server = await serve(max_topics=10)
    first = await server.publish("t0", "unseen later")
    lost = await server.publish("t0", "lost")
    for number in range(1, 40):
        await server.publish(f"t{number}", "x")
    listed = (await server.request("GET", "/topics", accept=JSON)).json()["topics"]
    assert isinstance(listed, list)
    assert len(listed) == 10
    for cursor in (first, lost):
        stream = await server.subscribe("/topics/t0", last_event_id=cursor)
        event = await stream.event(1)
        assert event.type == "broker.gap"  # lost: the broker can't know whether more came


async def test_bytes_of_all_logs_are_bounded_and_the_gap_is_exact(serve: Serve) -> None:
    server = await serve(retention_bytes=10_000, log_memory_bytes=50_000)
    seen: dict[str, tuple[str, str]] = {}
    for number in range(100):
        topic = f"t{number}"
        seen[topic] = (await server.publish(topic, "1" * 1000), await server.publish(topic, "2" * 1000))
    assert server.node.metrics.registry.get_sample_value("broker_log_bytes") <= 50_000  # type: ignore[operator]
    first, last = seen["t0"]
    told = await server.subscribe("/topics/t0", last_event_id=first)
    assert (await told.event(1)).type == "broker.gap"
    complete = await server.subscribe("/topics/t0", last_event_id=last)
    await server.publish("t0", "3")
    assert await complete.data(1) == ["3"]
    assert len(complete.events) == 1
    newest = await server.subscribe("/topics/t99", last_event_id=seen["t99"][0])
    assert await newest.data(1) == ["2" * 1000]


async def get(server: Server, target: str, **headers: str) -> Answer:
    """A request that is answered without a stream."""
    return await server.request("GET", target, accept="text/event-stream", **headers)


async def test_delete_opens_the_name_anew(server: Server) -> None:
    await close_topic(server, "answer", "1")
    stream = await server.subscribe("/topics/answer?since=earliest")
    await stream.end()
    assert (await server.request("DELETE", "/topics/answer")).status == 204
    assert (await describe(server, "answer"))["closed"] is False
    again = await server.subscribe("/topics/answer", last_event_id=stream.events[-1].id)
    await server.publish("answer", "2")
    assert await again.data(1) == ["2"]
    assert [event.type for event in again.events] == [None], "no gap for a cursor that had seen everything"


async def test_the_list_shows_what_is_closed(server: Server) -> None:
    await close_topic(server, "a", "x")
    await server.publish("b", "x")
    listed = (await server.request("GET", "/topics", accept="application/json")).json()["topics"]
    assert isinstance(listed, list)
    assert [(one["topic"], one["closed"]) for one in listed] == [("a", True), ("b", False)]


async def test_the_end_of_a_topic_outlives_its_events(serve: Serve, clock: Clock) -> None:
    server = await serve(retention_seconds=60)
    one = await server.publish("answer", "1")
    await close_topic(server, "answer", "2")
    clock.now += 100
    stream = await server.subscribe("/topics/answer", last_event_id=one)
    await stream.end()
    assert [event.type for event in stream.events] == ["broker.gap", "broker.end"]
    assert (await get(server, "/topics/answer", last_event_id=stream.events[-1].id)).status == 204
