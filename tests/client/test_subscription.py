"""Subscriptions, over connections that fail in many ways."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json

import pytest

from broker.client import Client, Connection, Gap
from broker.events import Event
from tests.client.servers import (
    END,
    OPENING,
    SILENCES,
    STREAM,
    ScriptedServer,
    ServerConnection,
    SilentServer,
    event,
    rest,
    stay,
    take,
    then_stay,
    wait_for_leave,
)
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import WAIT_SECONDS, until


@pytest.fixture
def quick_broker(shared_brokers: SharedBrokers) -> BrokerProcess:
    """A broker that asks its clients to reconnect soon."""
    return shared_brokers.get(retry_min_ms=10, retry_max_ms=50, drain_seconds=0.1)


# A broker


async def test_events_arrive_with_topic_id_type_and_data(client: Client) -> None:
    async with client.subscribe("a.b") as events:
        first = await client.publish("a.b", "hello")
        second = await client.publish("a.b", "two\nlines ü", "greeting")
        assert await take(events, 2) == [
            Event("hello", None, first, "a.b"),
            Event("two\nlines ü", "greeting", second, "a.b"),
        ]
        assert events.cursor == second


async def test_several_topics_come_on_one_connection_each_event_with_its_topic(client: Client) -> None:
    async with client.subscribe("a", "b", "a") as events:
        first = await client.publish("b", "1", "t")
        second = await client.publish("a", "x\r\ny")
        assert await take(events, 2) == [Event("1", "t", first, "b"), Event("x\ny", None, second, "a")]


async def test_async_for_connects(client: Client) -> None:
    await client.publish("a", "1")
    async for received in client.subscribe("a", since="earliest"):
        assert received.data == "1"
        break


@pytest.mark.parametrize("topics", [("a",), ("a", "b")])
async def test_a_subscription_starts_where_it_was_asked_to(client: Client, topics: tuple[str, ...]) -> None:
    ids = [await client.publish("a", str(number)) for number in range(5)]
    for start, expected in (
        ({"since": "earliest"}, ids),
        ({"since": "10m"}, ids),
        ({"since": ids[1]}, ids[2:]),
        ({"last": 2}, ids[3:]),
        ({"cursor": ids[2]}, ids[3:]),
    ):
        async with client.subscribe(*topics, **start) as events:
            assert [received.id for received in await take(events, len(expected))] == expected


async def test_the_cursor_is_known_before_the_first_event(client: Client) -> None:
    async with client.subscribe("a") as events:
        cursor = events.cursor
    assert cursor
    missed = await client.publish("a", "while away")
    async with client.subscribe("a", cursor=cursor) as events:
        assert await take(events, 1) == [Event("while away", None, missed, "a")]


async def test_a_gap_comes_before_the_first_event_after_it() -> None:
    with BrokerProcess(retention_events=2) as broker:
        ids = [broker.publish("a", str(number)) for number in range(5)]
        async with Client(broker.url) as client, client.subscribe("a", cursor=ids[0]) as events:
            gap, *others = await take(events, 3)
    assert isinstance(gap, Gap)
    assert (gap.type, gap.topic, gap.after, gap.reason, gap.id) == (
        "broker.gap",
        "a",
        ids[0],
        "trimmed",
        ids[0],
    )
    assert json.loads(gap.data) == {"topic": "a", "after": ids[0], "reason": "trimmed"}
    assert [received.id for received in others] == ids[3:]


async def test_a_deleted_topic_ends_the_iteration(client: Client, broker: BrokerProcess) -> None:
    async with client.subscribe("a", "b") as events:
        first = await client.publish("a", "1")
        for topic in ("a", "b"):
            async with client._session().delete(f"{broker.url}/topics/{topic}") as response:
                assert response.status == 204
        assert [received.id for received in await rest(events)] == [first]
        assert events.ended == {"a": "deleted", "b": "deleted"}


async def test_a_closed_topic_ends_the_iteration_also_for_a_cursor_at_its_end(
    client: Client, broker: BrokerProcess
) -> None:
    broker.publish("a", "1")
    broker.publish("a", "2", end="true")
    events = client.subscribe("a", since="earliest")
    assert [received.data for received in await rest(events)] == ["1", "2"]
    assert events.ended == {"a": "closed"}
    again = client.subscribe("a", cursor=events.cursor)
    assert (await rest(again), again.ended) == ([], {})
    late = client.subscribe("a")
    await late.connect()
    assert (await rest(late), late.ended) == ([], {"a": "closed"})


async def test_one_of_two_topics_has_ended_before(client: Client, broker: BrokerProcess) -> None:
    broker.publish("a", "1", end="true")
    async with client.subscribe("a", "b") as events:
        assert events.ended == {"a": "closed"}
        assert events.cursor
        first = await client.publish("b", "goes on")
        assert [received.id for received in await take(events, 1)] == [first]


async def test_after_a_crash_of_the_broker_a_gap_comes_before_new_events(quick_broker: BrokerProcess) -> None:
    async with Client(quick_broker.url, max_delay_seconds=0.2) as client, client.subscribe("a") as events:
        first = await client.publish("a", "before")
        assert (await take(events, 1))[0].id == first
        following = asyncio.create_task(take(events, 2))
        await asyncio.to_thread(quick_broker.kill)
        await asyncio.to_thread(quick_broker.start)
        second = await client.publish("a", "after")
        gap, received = await following
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.after, gap.topic) == ("lost", first, "a")
    assert received == Event("after", None, second, "a")


async def test_a_subscription_continues_after_a_drain_and_restart(quick_broker: BrokerProcess) -> None:
    changes: list[Connection] = []
    async with (
        Client(quick_broker.url, max_delay_seconds=0.2) as client,
        client.subscribe("a", "b", on_change=changes.append) as events,
    ):
        first = await client.publish("a", "before")
        following = asyncio.create_task(take(events, 4))
        assert await asyncio.to_thread(quick_broker.terminate) == 0
        await until(lambda: not changes[-1].up, "the client sees the end of its stream")
        await asyncio.to_thread(quick_broker.start)
        second = await client.publish("b", "after")
        received = await following
    assert received[0].id == first
    assert [(gap.type, gap.topic) for gap in received[1:3]] == [("broker.gap", "a"), ("broker.gap", "b")]
    assert received[3] == Event("after", None, second, "b")


@pytest.mark.parametrize("topics", [("a",), ("a", "b")])
async def test_i2_dropped_connections_lose_nothing_and_double_nothing(
    shared_brokers: SharedBrokers, topics: tuple[str, ...]
) -> None:
    """The connection is cut a hundred times, at any byte, while 2,000 events are published."""
    broker = shared_brokers.get(retry_min_ms=1, retry_max_ms=1)
    published: list[str] = []
    async with (
        TcpProxy(broker.port) as proxy,
        Client(broker.url) as direct,
        Client(proxy.url, max_delay_seconds=0.2) as client,
        client.subscribe(*topics) as events,
    ):
        received = asyncio.create_task(take(events, 2000))
        for batch in range(100):
            body = [
                Event(f"{batch}.{number} " + "x" * 200, None, "", topics[number % len(topics)])
                for number in range(20)
            ]
            await direct.publish_lines(None, body)
            published += [event.data for event in body]
            connections = proxy.connections
            proxy.cut()
            await until(lambda: proxy.connections > connections or received.done(), "the client is back")  # noqa: B023
        got = await received
    assert [event.data for event in got] == published
    assert not [event for event in got if isinstance(event, Gap)]
    assert proxy.connections >= 100


# Cuts


WIRE = OPENING + event("1-0", "one") + b":\nevent: t\ndata: two\ndata: 2\nid: 2-0\n\n" + event("3-0", "three")
EXPECTED = [
    Event("one", None, "1-0", "a"),
    Event("two\n2", "t", "2-0", "a"),
    Event("three", None, "3-0", "a"),
]


async def resume(connection: ServerConnection) -> None:
    """Send the events after the cursor, and the end."""
    behind = {"": WIRE, "1-0": WIRE[WIRE.index(b"event: t") :], "2-0": event("3-0", "three"), "3-0": b""}
    await connection.send(STREAM + behind[connection.cursor] + END)


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
async def test_a_stream_cut_at_any_byte_continues(reset: bool) -> None:
    for cut in range(len(WIRE) + 1):

        async def cut_short(connection: ServerConnection, cut: int = cut) -> None:
            await connection.send(STREAM + b"retry: 1\n" + WIRE[:cut].replace(b"retry: 10", b"retry: 01"))
            if reset:
                connection.reset()

        async with ScriptedServer(cut_short, resume) as server, Client(server.url) as client:
            assert await rest(client.subscribe("a", since="earliest")) == EXPECTED


async def test_a_stream_may_come_byte_by_byte() -> None:
    async def trickle(connection: ServerConnection) -> None:
        for byte in STREAM + WIRE + END:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0)

    async with ScriptedServer(trickle) as server, Client(server.url) as client:
        assert await rest(client.subscribe("a")) == EXPECTED
        assert len(server.accepted) == 1


async def test_a_reconnect_sends_the_cursor_instead_of_the_start() -> None:
    first = STREAM + OPENING + event("1-0")
    async with ScriptedServer(first, STREAM + END) as server, Client(server.url, token="secret") as client:
        assert len(await rest(client.subscribe("a", last=5))) == 1
        asked = [(connection.target, connection.cursor) for connection in server.accepted]
        assert asked == [("/topics/a?last=5", ""), ("/topics/a", "1-0")]
        assert {connection.headers["authorization"] for connection in server.accepted} == {"Bearer secret"}


async def test_a_silent_connection_is_replaced() -> None:
    changes: list[Connection] = []
    async with (
        SilentServer(changes) as server,
        Client(server.url, silence_seconds=0.2, timeout_seconds=1) as client,
    ):
        assert len(await rest(client.subscribe("a", on_change=changes.append))) == 1
        assert {change.why for change in changes if not change.up} == SILENCES


async def test_heartbeats_keep_a_silent_topic_connected() -> None:
    """Tried again if the machine stalls, for then the client may be right to reconnect."""
    loop = asyncio.get_running_loop()
    silence_seconds, longest_pause = 1.0, 0.0

    async def beat(connection: ServerConnection) -> None:
        nonlocal longest_pause
        await connection.send(STREAM + OPENING)
        began_at = last_at = loop.time()
        while loop.time() < began_at + 2 * silence_seconds:
            await connection.send(b":\n")
            await asyncio.sleep(0.05)  # the server's pace, not a wait for the client
            longest_pause, last_at = max(longest_pause, loop.time() - last_at), loop.time()
        await connection.send(END)

    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            longest_pause = 0.0
            async with (
                ScriptedServer(beat) as server,
                Client(server.url, silence_seconds=silence_seconds) as client,
            ):
                assert await rest(client.subscribe("a")) == []
            if longest_pause < silence_seconds / 2:
                break
    assert len(server.accepted) == 1


# Bounds


async def test_pending_events_are_bounded_and_not_yet_behind_the_cursor() -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        await connection.send(STREAM + OPENING)
        while True:
            sent += 1
            await connection.send(event(f"{sent}-0", "x" * 10_000))

    async with ScriptedServer(flood) as server, Client(server.url) as client:
        events = client.subscribe("a")
        assert [received.id for received in await take(events, 2)] == ["1-0", "2-0"]
        assert events.cursor == "2-0"
        before = -1
        while before != sent:  # until the server is stuck
            before = sent
            await asyncio.sleep(0.1)
        assert len(events._state._pending) < 200
        assert [received.id for received in await take(events, 1000)] == [
            f"{number}-0" for number in range(3, 1003)
        ]
        assert events.cursor == "1002-0"


# Closing


async def test_closing_closes_the_connection() -> None:
    async with (
        ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server,
        Client(server.url) as client,
    ):
        events = client.subscribe("a")
        await take(events, 1)
        waiting = asyncio.create_task(rest(events))
        await asyncio.sleep(0)
        assert events.connected
        await events.aclose()
        assert await waiting == []
        assert not events.connected
        await wait_for_leave(server)


async def test_leaving_the_loop_closes_the_connection() -> None:
    async with (
        ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server,
        Client(server.url) as client,
    ):
        async for _ in client.subscribe("a"):
            break
        gc.collect()
        await wait_for_leave(server)


async def test_cancelling_the_task_closes_the_connection() -> None:
    async with (
        ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server,
        Client(server.url) as client,
    ):

        async def follow() -> None:
            async with client.subscribe("a", since="earliest") as events:
                async for _ in events:
                    pass

        task = asyncio.create_task(follow())
        await until(lambda: server.accepted, "the client is there")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_for_leave(server)


async def test_cancelled_wait_loses_nothing(client: Client) -> None:
    async with client.subscribe("a") as events:
        expected = []
        received: list[str] = []
        for number in range(50):
            expected.append(await client.publish("a", str(number)))
            for wait in (0, 0.0005, 0.001):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        received.append((await anext(events)).id)
        received += [event.id for event in await take(events, 50 - len(received))]
        assert received == expected


async def test_connecting_continues_after_a_cancellation() -> None:
    async with (
        ScriptedServer(stay, stay, STREAM + OPENING + event("1-0")) as server,
        Client(server.url) as client,
    ):
        events = client.subscribe("a")
        for count in (1, 2):
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda count=count: len(server.accepted) == count, "the client has connected")  # type: ignore[misc]
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert len(await take(events, 1)) == 1
        assert len(server.accepted) == 3
