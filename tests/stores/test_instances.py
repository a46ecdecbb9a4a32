"""Two instances on one server are one broker: a request to one has its effect on both (contract §2 to §4)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.stores.redis import broadcast
from tests.stores.brokers import StartBroker, StartPair
from tests.stores.conftest import StartServer
from tests.support.local_broker import Server
from tests.support.redis_servers import Server as Redis
from tests.support.waiting import WAIT_SECONDS

Pair = tuple[Server, Server]


@pytest.fixture
async def pair(empty_server: Redis, start_pair: StartPair) -> Pair:
    """Two brokers on one empty server."""
    given = {"idempotency_memory_bytes": 20_000}
    return await start_pair(empty_server.url, **given)


async def info(broker: Server, topic: str) -> dict[str, Any]:
    return (await broker.request("GET", f"/topics/{topic}", accept="application/json")).json()


async def until_info(broker: Server, topic: str, **wanted: object) -> None:
    """Repeat a request until its answer has the wanted value."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not wanted.items() <= (await info(broker, topic)).items():
            await asyncio.sleep(0.02)


async def test_a_key_counts_once_over_all_instances(pair: Pair) -> None:
    first, second = await asyncio.gather(
        *(broker.request("POST", "/topics/a", b"paid", Idempotency_Key="order-17") for broker in pair)
    )
    assert first.status == second.status == 201
    assert first.json() == second.json()
    assert [("idempotency-replayed" in answer.headers) for answer in (first, second)].count(True) == 1
    assert (await info(pair[0], "a"))["events"] == 1


async def test_a_key_to_several_topics_counts_once_on_each(pair: Pair) -> None:
    one, other = pair
    await one.publish("a", "1", Idempotency_Key="k")
    both = await other.request("POST", "/topics?topic=a&topic=b", b"1", Idempotency_Key="k")
    again = await one.request("POST", "/topics?topic=a&topic=b", b"1", Idempotency_Key="k")
    assert both.json() == again.json()
    assert ("idempotency-replayed" in both.headers, "idempotency-replayed" in again.headers) == (False, True)
    assert [(await info(other, topic))["events"] for topic in "ab"] == [1, 1]


async def test_keys_of_all_instances_are_bounded_in_bytes(pair: Pair) -> None:
    statuses = set()
    for number in range(200):
        broker = pair[number % 2]
        answer = await broker.request("POST", "/topics/a", b"x", Idempotency_Key=f"key-{number}")
        statuses.add(answer.status)
        if answer.status == 429:
            assert answer.json()["code"] == "rate-limited"
            assert "retry-after" in answer.headers
            break
    assert statuses == {201, 429}
    assert (await pair[0].request("POST", "/topics/a", b"x")).status == 201


async def test_info_counts_the_subscribers_of_all(pair: Pair) -> None:
    one, other = pair
    streams = [
        await one.subscribe("/topics/a"),
        await other.subscribe("/topics/a"),
        await other.subscribe("/topics/a"),
    ]
    await one.publish("a", "x")
    for broker in pair:
        await until_info(broker, "a", subscribers=3, events=1, bytes=len("data: x\nid: 1234567890123-0\n\n"))
    await streams[1].close()
    for broker in pair:
        await until_info(broker, "a", subscribers=2)


async def test_the_topics_of_all_instances_are_listed_by_pages(pair: Pair) -> None:
    one, other = pair
    for name in ("d", "b"):
        await one.publish(name, "x")
    await other.publish("a", "x")
    stream = await other.subscribe("/topics/c")
    await until_info(one, "c", subscribers=1)
    names: list[str] = []
    target = "/topics?limit=1"
    while True:
        page = (await one.request("GET", target, accept="application/json")).json()
        topics, following = page["topics"], page["next"]
        assert isinstance(topics, list)
        names += [topic["topic"] for topic in topics]
        if following is None:
            break
        target = f"/topics?limit=1&after={following}"
    assert names == ["a", "b", "c", "d"]
    await stream.close()


async def test_deleted_on_one_ends_on_the_other(pair: Pair) -> None:
    one, other = pair
    seen = await other.subscribe("/topics/a?since=earliest")
    await one.publish("a", "1")
    cursor = (await seen.event(1)).id
    missed = await one.publish("a", "2")
    both = await other.subscribe("/topics?topic=a&topic=b")
    assert (await one.request("DELETE", "/topics/a")).status == 204
    await seen.end()
    assert [event.type for event in seen.events] == [None, None, "broker.end"]
    assert json.loads(seen.events[-1].data) == {"topic": "a", "reason": "deleted"}
    await both.until(lambda: any(event.type == "broker.end" for event in both.events))
    await one.publish("b", "goes on")
    assert await both.data(1) == ["goes on"]
    new = await one.publish("a", "3")
    for broker in pair:
        behind = await broker.subscribe("/topics/a", Last_Event_ID=cursor)
        assert await behind.data(1) == ["3"]
        assert [event.type for event in behind.events] == ["broker.gap", None]
        upto_date = await broker.subscribe("/topics/a", Last_Event_ID=missed)
        assert [event.id for event in [await upto_date.event(1)]] == [new], (
            "no gap: the cursor had seen everything"
        )
    assert (await info(other, "a"))["events"] == 1


async def test_a_cursor_is_valid_on_another_instance(pair: Pair) -> None:
    ids = [await pair[number % 2].publish("ab"[number % 3 == 0], str(number)) for number in range(30)]
    for broker in pair:
        for at in (0, 7, 28):
            stream = await broker.subscribe("/topics?topic=a&topic=b", Last_Event_ID=ids[at])
            assert await stream.data(29 - at) == [str(number) for number in range(at + 1, 30)]
            assert len(stream.events) == 29 - at


async def test_a_cursor_ahead_of_the_store_is_unknown_on_all_instances(pair: Pair) -> None:
    one, other = pair
    last = await one.publish("a", "1")
    same = await other.subscribe("/topics/a", Last_Event_ID=last)
    ms = int(last.partition("-")[0])
    ahead = await other.subscribe("/topics/a", Last_Event_ID=f"{ms + 60_000}-0")
    gap = await ahead.event(1)
    assert (gap.type, json.loads(gap.data)["reason"]) == ("broker.gap", "unknown-id")
    await one.publish("a", "2")
    assert await ahead.data(1) == await same.data(1) == ["2"]
    assert len(same.events) == 1


async def test_starts_by_time_and_by_count_read_from_the_store(pair: Pair) -> None:
    one, other = pair
    for number in range(10):
        await one.publish("a", str(number))
    live = await other.subscribe("/topics/a")  # so that this instance's replica begins after them
    for query, first in (
        ("last=3", 7),
        ("since=earliest", 0),
        ("since=10m", 0),
        ("last=100", 0),
        ("last=1", 9),
    ):
        stream = await other.subscribe(f"/topics/a?{query}")
        assert await stream.data(10 - first) == [str(number) for number in range(first, 10)]
        assert len(stream.events) == 10 - first
    await live.close()


async def end(broker: Server, topic: str, data: str = "") -> None:
    answer = await broker.request("POST", f"/topics/{topic}?end=true", data.encode())
    assert (answer.status, answer.json().get("closed")) == (201, True), answer


async def test_closed_on_one_instance_is_closed_on_the_other(pair: Pair) -> None:
    one, other = pair
    streams = [await other.subscribe(target) for target in ("/topics/a", "/topics/a?envelope=json")]
    both = await other.subscribe("/topics?topic=a&topic=b")
    await one.publish("a", "1", "?retain=2h")
    await end(one, "a", "2")
    for stream in streams:
        await stream.end()
        assert [event.type for event in stream.events] == ["broker.open", None, None, "broker.end"]
    await both.until(lambda: any(event.type == "broker.end" for event in both.events))
    await one.publish("b", "goes on")
    assert (await both.data(3))[-1] == "goes on"
    cursor = streams[0].events[-1].id
    for broker in pair:
        back = await broker.request("GET", "/topics/a", accept="text/event-stream", last_event_id=cursor)
        assert (back.status, back.body) == (204, b"")
        assert (await broker.request("POST", "/topics/a", b"3")).status == 409
        assert (await info(broker, "a"))["closed"] is True
        late = await broker.subscribe("/topics/a")
        await late.end()
        assert [event.type for event in late.events] == ["broker.open", "broker.end"]
    await other.request("DELETE", "/topics/a")
    assert (await one.request("POST", "/topics/a", b"3")).status == 201


async def test_a_subscriber_that_joins_during_the_close_gets_the_end(pair: Pair) -> None:
    """Whatever its cursor, and however far the other instance has received."""
    one, other = pair
    for number in range(60):
        topic = f"t{number}"
        before = await one.publish(topic, "1")
        ending = asyncio.ensure_future(end(one, topic))
        streams = await asyncio.gather(
            other.subscribe(f"/topics/{topic}"),
            one.subscribe(f"/topics/{topic}"),
            other.subscribe(f"/topics/{topic}", Last_Event_ID=before),
            other.subscribe(f"/topics/{topic}?since=earliest"),
            other.subscribe(f"/topics/{topic}?since=0s"),
        )
        await ending
        for stream in streams:
            body = await stream.end()
            assert [event.type for event in stream.events][-1:] == ["broker.end"], body
        cursor = streams[0].events[-1].id
        back = await other.request("GET", f"/topics/{topic}", accept="*/*", last_event_id=cursor)
        assert back.status == 204


async def test_a_cursor_at_the_end_gets_204_on_the_other_instance_at_once(pair: Pair) -> None:
    """The cursor may reach an instance before the end does."""
    one, other = pair
    for number in range(40):
        topic = f"t{number}"
        stream = await other.subscribe(f"/topics/{topic}")
        await stream.event(1)
        answer = await one.request("POST", f"/topics/{topic}?end=true", b"")
        cursor = str(answer.json()["id"])
        back = await other.request("GET", f"/topics/{topic}", accept="*/*", last_event_id=cursor)
        assert back.status == 204
        await stream.end()


@pytest.mark.parametrize("first", [300, 60])
async def test_a_key_counts_once_on_instances_with_different_windows(
    start_server: StartServer, start_broker: StartBroker, first: int
) -> None:
    """They may differ for a while, when the setting changes."""
    server = start_server()
    brokers = {seconds: await start_broker(server.url, idempotency_seconds=seconds) for seconds in (300, 60)}
    one, other = brokers[first], brokers[360 - first]
    published = await one.request("POST", "/topics/a", b"x", Idempotency_Key="k")
    again = await other.request("POST", "/topics/a", b"x", Idempotency_Key="k")
    assert (again.status, again.json()) == (201, published.json())
    assert again.headers["idempotency-replayed"] == "true"


async def test_i9_many_cancels_keep_no_revocation_out(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, empty_server: Redis
) -> None:
    monkeypatch.setattr(broadcast, "MAX_KEPT", 10)
    monkeypatch.setattr(broadcast, "MAX_DROPPABLE", 5)
    for number in range(40):
        answer = await pair[number % 2].request("POST", f"/topics/nobody{number}/cancel")
        assert answer.status == 202
    for number in range(10):
        answer = await pair[number % 2].request("POST", "/admin/revoke", b'{"jti": "%d"}' % number)
        assert answer.status == 202
    answer = await pair[0].request("POST", "/admin/revoke", b'{"jti": "one too many"}')
    assert (answer.status, answer.json()["code"]) == (429, "rate-limited")
    assert (await pair[0].request("POST", "/topics/nobody/cancel")).status == 202
    with empty_server.client() as client:
        assert (client.zcard("broker:{b}:notices"), client.zcard("broker:{b}:droppable")) == (10, 5)
