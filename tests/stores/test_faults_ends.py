"""Closed topics during faults: no subscriber gets an end before it has everything, and none waits for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.events import format_id, parse_id
from tests.stores.brokers import Older, Publisher, StartBroker, StartPair, both_with_one, until_ready
from tests.stores.conftest import StartServer
from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Server
from tests.support.patience import own_timeouts
from tests.support.redis_proxy import RedisProxy
from tests.support.waiting import until


async def end(broker: Server, topic: str, data: str = "") -> str:
    """Close a topic; returns the id of its end."""
    answer = await broker.request("POST", f"/topics/{topic}?end=true", data.encode())
    assert (answer.status, answer.json().get("closed")) == (201, True), answer
    return str((await broker.request("POST", f"/topics/{topic}?end=true", b"")).json()["id"])


async def about(broker: Server, topic: str = "a") -> dict[str, Any]:
    return (await broker.request("GET", f"/topics/{topic}", accept="application/json")).json()


async def status(broker: Server, cursor: str, target: str = "/topics/a") -> int:
    """The status of a subscription that is closed at once: 204, or 200."""
    stream = await broker.subscribe(target, Last_Event_ID=cursor)
    await stream.close()
    return stream.status


def kinds(stream: AsyncStream) -> list[str | None]:
    return [event.type for event in stream.events if event.type != "broker.open"]


async def test_a_lost_end_is_undone(
    start_server: StartServer, start_broker: StartBroker, start_pair: StartPair
) -> None:
    server = start_server()
    one, other = await start_pair(server.url)
    await one.publish("a", "1")
    older = Older(server)
    cursor = await end(one, "a", "2")
    for broker in (one, other):
        assert await status(broker, cursor) == 204
    waiting = await other.subscribe("/topics?topic=a&topic=b", Last_Event_ID=cursor)
    older.load()
    await until_ready(one, other)
    for broker in (one, other, await start_broker(server.url)):
        back = await broker.subscribe("/topics/a", Last_Event_ID=cursor)
        await back.event(1)
        assert (back.status, back.gaps()) == (200, ["lost"])
        assert (await about(broker))["closed"] is False
        await back.close()
    new = await one.publish("a", "3")
    for broker in (one, other):
        stream = await broker.subscribe("/topics/a?since=earliest")
        while not any(event.id == new for event in stream.events):
            assert await stream.more()
        assert "broker.end" not in kinds(stream)
    await one.publish("b", "x")
    await waiting.data(1)
    assert (await end(one, "a")) > cursor


async def test_a_lost_cursor_gets_its_gap_before_the_end(
    start_server: StartServer, start_broker: StartBroker, start_pair: StartPair
) -> None:
    """The lost writes may include a DELETE of the topic and new events."""
    server = start_server()
    one, other = await start_pair(server.url)
    end_id = await end(one, "a", "1")
    older = Older(server)
    lost = await one.publish("b", "lost")
    seen = await other.subscribe("/topics/b?since=earliest")
    await seen.data(1)
    older.load()
    await until_ready(one, other)
    new = await one.publish("b", "new")
    await seen.data(2)
    for broker in (one, other, await start_broker(server.url)):
        for cursor in (end_id, lost):
            back = await broker.subscribe("/topics/a", Last_Event_ID=cursor)
            assert back.status == 200
            await back.end()
            assert (kinds(back), back.gaps()) == (["broker.gap", "broker.end"], ["lost"])
        assert await status(broker, new) == 204


@pytest.mark.parametrize("is_known", [True, False], ids=["known loss", "unknown loss"])
async def test_i1_a_lost_cursor_does_not_go_back_to_an_end_before_it(
    start_server: StartServer, start_broker: StartBroker, is_known: bool
) -> None:
    """A closed topic of several ends again after a loss; later events of another topic are not repeated."""
    server = start_server()
    one = await start_broker(server.url)
    await end(one, "a", "1")
    kept = await one.publish("b", "kept")
    older = Older(server)
    cursor = await one.publish("b", "lost")
    if not is_known:
        await one.stop()
    older.load()
    if is_known:
        await Publisher(one, "c").until_taken()
    other = await start_broker(server.url)
    await until_ready(other)
    back = await other.subscribe("/topics?topic=a&topic=b", Last_Event_ID=cursor)
    await back.until(lambda: "broker.end" in kinds(back))
    assert [event.id for event in back.events if event.id] == []
    new = await other.publish("b", "new")
    assert await back.data(1) == ["new"]
    assert back.events[-1].id == new
    for seen in (cursor, kept):
        alone = await other.subscribe("/topics/a", Last_Event_ID=seen)
        if not is_known and seen == kept:
            assert alone.status == 204
            continue
        await alone.end()
        assert (kinds(alone), alone.gaps()) == (["broker.gap", "broker.end"], ["lost"])
        assert await status(other, alone.events[-1].id) == 204, (
            "its client need not come back again and again"
        )


async def test_a_clean_restart_keeps_the_end(
    start_server: StartServer, start_broker: StartBroker, start_pair: StartPair
) -> None:
    server = start_server()
    one, other = await start_pair(server.url)
    before = await one.publish("a", "1")
    cursor = await end(one, "a", "2")
    server.restart(keep_data=True)
    await until_ready(one, other)
    for broker in (one, other, await start_broker(server.url)):
        assert await status(broker, cursor) == 204
        stream = await broker.subscribe("/topics/a", Last_Event_ID=before)
        await stream.end()
        assert [(event.type, event.data) for event in stream.events[:1]] == [(None, "2")]
        assert kinds(stream) == [None, "broker.end"]


async def test_an_emptied_store_reports_lost_instead_of_an_end(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    one = await start_broker(server.url)
    cursor = await end(one, "a", "1")
    with server.client() as client:
        client.flushall()
    for broker in (one, await start_broker(server.url)):
        back = await broker.subscribe("/topics/a", Last_Event_ID=cursor)
        await back.event(1)
        assert (back.status, back.gaps()) == (200, ["lost"])


async def test_closed_while_an_instance_was_disconnected(
    start_server: StartServer, start_pair: StartPair
) -> None:
    server = start_server()
    async with RedisProxy(server) as proxy:
        one, other = await start_pair(server.url, proxy.url)
        alone, both = await both_with_one(one, other)
        proxy.close()
        await one.publish("a", "2")
        cursor = await end(one, "a", "3")
        proxy.open()
        await alone.end()
        assert kinds(alone) == [None, None, None, "broker.end"]
        assert alone.events[-1].id == cursor
        await one.publish("b", "4")
        assert await both.data(4) == ["1", "2", "3", "4"]
        assert kinds(both) == [None, None, None, "broker.end", None]
        assert await status(other, cursor) == 204


async def test_deleted_and_closed_while_an_instance_was_disconnected(
    start_server: StartServer, start_pair: StartPair
) -> None:
    server = start_server()
    async with RedisProxy(server) as proxy:
        one, other = await start_pair(server.url, proxy.url)
        first = await end(one, "a", "1")
        assert await status(other, first) == 204
        proxy.close()
        await one.request("DELETE", "/topics/a")
        second = await end(one, "a", "2")
        proxy.open()
        await until_ready(other)
        back = await other.subscribe("/topics/a", Last_Event_ID=first)
        await back.end()
        assert ([event.data for event in back.published()], back.gaps()) == (["2"], [])
        assert back.events[-1].id == second
        assert await status(other, second) == 204


async def test_the_store_went_back_to_the_topics_end(
    start_server: StartServer, start_pair: StartPair
) -> None:
    """The lost writes include a DELETE and new events; subscribers at that time get the end and a gap."""
    server = start_server()
    one, other = await start_pair(server.url)
    await end(one, "a", "1")
    older = Older(server)
    await one.request("DELETE", "/topics/a")
    streams = [await broker.subscribe("/topics/a") for broker in (one, other)]
    cursor = await one.publish("a", "2")
    for stream in streams:
        assert await stream.data(1) == ["2"]
    older.load()
    for stream in streams:
        await stream.end()
        assert kinds(stream) == [None, "broker.gap", "broker.end"]
    await until_ready(one, other)
    assert await status(one, streams[0].events[-1].id) == 204
    back = await other.subscribe("/topics/a", Last_Event_ID=cursor)
    await back.end()
    assert kinds(back) == ["broker.gap", "broker.end"]


async def test_a_living_instance_closes_the_topics_of_a_dead_one(
    start_server: StartServer, start_pair: StartPair
) -> None:
    server = start_server()
    dead, alive = await start_pair(server.url)
    stream = await alive.subscribe("/topics/a")
    await dead.publish("a", "1")
    await dead.node.lease("a", 0.3)
    await dead.stop()
    await stream.end()
    assert kinds(stream) == [None, "broker.end"]
    assert json.loads(stream.events[-1].data)["reason"] == "abandoned"


async def test_a_retried_publish_is_not_refused_for_its_own_end(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    async with RedisProxy(server) as proxy:
        one = await start_broker(proxy.url)
        for number in range(12):
            topic = f"t{number}"
            proxy.cut_after(40 + 130 * number)
            answer = await one.request("POST", f"/topics/{topic}?end=true", b"x" * 500)
            assert (answer.status, answer.json().get("closed")) == (201, True), (number, answer)
            shown = await about(one, topic)
            assert (shown["events"], shown["closed"]) == (1, True)


async def test_a_producer_retries_after_a_lost_answer(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    body = b"".join(b'{"data": "%d"}\n' % number for number in range(4))
    own = {"content_type": "application/x-ndjson", "broker_producer": "p", "broker_sequence": "1"}
    async with RedisProxy(server) as proxy:
        one = await start_broker(proxy.url)
        for number in range(12):
            target = f"/topics/t{number}"
            proxy.cut_after(40 + 130 * number)
            answer = await one.request("POST", f"{target}?end=true", body, **own)
            assert answer.status == 200, answer
            assert (answer.json()["published"], answer.json()["known"]) == (4, 0)
            again = await one.request("POST", f"{target}?end=true", body, **own)
            assert (again.json()["published"], again.json()["known"]) == (0, 4)
            assert (await about(one, f"t{number}"))["events"] == 4


async def test_a_forgotten_topic_is_open_again(start_server: StartServer, start_broker: StartBroker) -> None:
    server = start_server()
    one = await start_broker(server.url, max_topics=1)
    cursor = await end(one, "a", "1")
    later = await one.publish("b", "x")
    await one.node._store.topics.forget()  # type: ignore[attr-defined]
    with server.client() as client:
        await until(lambda: not client.exists("broker:{b}:rec:a"), "the topic is forgotten")
    assert (await about(one))["closed"] is False
    stream = await one.subscribe("/topics/a", Last_Event_ID=later)
    await one.publish("a", "2")
    assert await stream.data(1) == ["2"]
    assert stream.gaps() == []
    back = await one.subscribe("/topics/a", Last_Event_ID=format_id((parse_id(cursor) or 0) - 1))
    assert await back.data(1) == ["2"]
    assert back.gaps() == ["trimmed"]


async def test_an_end_that_was_undone_elsewhere_stops_no_subscriber(
    start_server: StartServer, start_pair: StartPair
) -> None:
    """A 204 stops an EventSource for good, so an instance asks the store before it believes its copy."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        one, other = await start_pair(server.url, proxy.url)
        await one.publish("a", "1")
        cursor = await end(one, "a", "2")
        assert await status(other, cursor) == 204
        proxy.silence_subscribers()
        assert (await one.request("DELETE", "/topics/a")).status == 204
        with own_timeouts():  # until it notices that nothing arrives
            assert await status(other, cursor) == 200
