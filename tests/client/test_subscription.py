"""Subscriptions, over connections that break in every way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.client import Client, Connection, Gap, SubscribeError, Subscription
from broker.client.types import StartOptions
from broker.events import Event
from tests.client.servers import (
    OPENING,
    STREAM,
    ScriptedServer,
    TcpProxy,
    Visit,
    answer,
    event,
    problem,
    rest,
    stay,
    take,
    then_stay,
)
from tests.support.broker_process import BrokerProcess
from tests.support.waiting import until

END = b'event: broker.end\ndata: {"topic":"a","reason":"closed"}\nid: 99-0\n\n'


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[Client]:
    """A client of the fixture's broker."""
    async with Client(broker.url) as client:
        yield client


@pytest.fixture
def quick_broker() -> Iterator[BrokerProcess]:
    """A broker that asks its clients to come back soon."""
    with BrokerProcess(retry_min_ms=10, retry_max_ms=30, drain_seconds=0.1) as process:
        yield process


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


async def test_several_topics_come_on_one_connection_each_event_with_its_own(client: Client) -> None:
    async with client.subscribe("a", "b", "a") as events:
        first = await client.publish("b", "1", "t")
        second = await client.publish("a", "x\r\ny")
        assert await take(events, 2) == [Event("1", "t", first, "b"), Event("x\ny", None, second, "a")]


async def test_async_for_alone_connects(client: Client) -> None:
    await client.publish("a", "1")
    async for received in client.subscribe("a", since="earliest"):
        assert received.data == "1"
        break


@pytest.mark.parametrize("topics", [("a",), ("a", "b")])
async def test_start_is_where_it_was_asked_for(client: Client, topics: tuple[str, ...]) -> None:
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


async def test_cursor_is_known_before_the_first_event_and_goes_on_there(client: Client) -> None:
    async with client.subscribe("a") as events:
        cursor = events.cursor
    assert cursor
    missed = await client.publish("a", "while away")
    async with client.subscribe("a", cursor=cursor) as events:
        assert await take(events, 1) == [Event("while away", None, missed, "a")]


async def test_gap_is_told_before_the_first_event_behind_it() -> None:
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


async def test_deleted_topic_ends_the_iteration(client: Client, broker: BrokerProcess) -> None:
    async with client.subscribe("a", "b") as events:
        first = await client.publish("a", "1")
        for topic in ("a", "b"):
            async with client._session().delete(f"{broker.url}/topics/{topic}") as response:
                assert response.status == 204
        assert [received.id for received in await rest(events)] == [first]
        assert events.ended == {"a": "deleted", "b": "deleted"}


async def test_closed_topic_ends_the_iteration_and_so_does_having_its_end(
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


async def test_one_of_two_topics_had_ended_before(client: Client, broker: BrokerProcess) -> None:
    broker.publish("a", "1", end="true")
    async with client.subscribe("a", "b") as events:
        assert events.ended == {"a": "closed"}
        assert events.cursor
        first = await client.publish("b", "goes on")
        assert [received.id for received in await take(events, 1)] == [first]


async def test_one_client_holds_more_subscriptions_than_aiohttp_would(client: Client) -> None:
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(client.subscribe("a")) for _ in range(120)]
        event_id = await client.publish("a", "all")
        for events in streams:
            assert await take(events, 1) == [Event("all", None, event_id, "a")]


async def test_killed_broker_is_a_gap_and_then_new_events(quick_broker: BrokerProcess) -> None:
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


async def test_drained_broker_is_followed_to_its_successor(quick_broker: BrokerProcess) -> None:
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
    quick_broker: BrokerProcess, topics: tuple[str, ...]
) -> None:
    """The connection is cut a hundred times, at whatever bytes it then carries, while 2,000 events are published."""
    published: list[str] = []
    async with (
        TcpProxy(quick_broker.port) as proxy,
        Client(quick_broker.url) as direct,
        Client(proxy.url) as client,
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


async def resume(visit: Visit) -> None:
    """What lies behind the cursor, and the end."""
    behind = {"": WIRE, "1-0": WIRE[WIRE.index(b"event: t") :], "2-0": event("3-0", "three"), "3-0": b""}
    await visit.send(STREAM + behind[visit.cursor] + END)


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
async def test_stream_cut_at_any_byte_is_gone_on_with(reset: bool) -> None:
    for cut in range(len(WIRE) + 1):

        async def cut_short(visit: Visit, cut: int = cut) -> None:
            await visit.send(STREAM + b"retry: 1\n" + WIRE[:cut].replace(b"retry: 10", b"retry: 01"))
            if reset:
                visit.reset()

        async with ScriptedServer(cut_short, resume) as server, Client(server.url) as client:
            assert await rest(client.subscribe("a", since="earliest")) == EXPECTED


async def test_stream_that_comes_byte_by_byte_is_the_same() -> None:
    async def trickle(visit: Visit) -> None:
        for byte in STREAM + WIRE + END:
            await visit.send(bytes([byte]))
            await asyncio.sleep(0)

    async with ScriptedServer(trickle) as server, Client(server.url) as client:
        assert await rest(client.subscribe("a")) == EXPECTED
        assert len(server.visits) == 1


async def test_reconnect_asks_by_cursor_and_no_longer_by_start() -> None:
    first = STREAM + OPENING + event("1-0")
    async with ScriptedServer(first, STREAM + END) as server, Client(server.url, token="secret") as client:
        assert len(await rest(client.subscribe("a", last=5))) == 1
        asked = [(visit.target, visit.cursor) for visit in server.visits]
        assert asked == [("/topics/a?last=5", ""), ("/topics/a", "1-0")]
        assert {visit.headers["authorization"] for visit in server.visits} == {"Bearer secret"}


async def test_open_sets_the_cursor_and_is_not_handed_out() -> None:
    opening = b'event: broker.open\ndata: {"topics":["a"]}\nid: 7-0\n\n'
    async with (
        ScriptedServer(STREAM + OPENING + opening, STREAM + END) as server,
        Client(server.url) as client,
    ):
        assert await rest(client.subscribe("a")) == []
        assert [visit.cursor for visit in server.visits] == ["", "7-0"]


async def test_gap_leaves_the_cursor() -> None:
    gap = b'event: broker.gap\ndata: {"topic":"a","after":"5-0","reason":"lost"}\n\n'
    async with ScriptedServer(STREAM + OPENING + gap, STREAM + END) as server, Client(server.url) as client:
        (told,) = await rest(client.subscribe("a", cursor="5-0"))
        assert (told.type, told.id) == ("broker.gap", "5-0")
        assert [visit.cursor for visit in server.visits] == ["5-0", "5-0"]


async def test_cancel_is_handed_out() -> None:
    cancel = b'event: broker.cancel\ndata: {"topic":"a"}\n\n'
    async with ScriptedServer(STREAM + cancel + END) as server, Client(server.url) as client:
        assert await rest(client.subscribe("a")) == [Event('{"topic":"a"}', "broker.cancel", "", "a")]


async def test_ended_topic_is_not_asked_for_again() -> None:
    enveloped = b'data: {"topic":"b","id":"100-0","event":null,"time":"","data":"x"}\nid: 100-0\n\n'
    end_of_b = END.replace(b'"a"', b'"b"').replace(b"closed", b"abandoned").replace(b"99", b"101")
    async with (
        ScriptedServer(STREAM + OPENING + END, STREAM + enveloped + end_of_b) as server,
        Client(server.url) as client,
    ):
        events = client.subscribe("a", "b")
        assert await rest(events) == [Event("x", None, "100-0", "b")]
        assert events.ended == {"a": "closed", "b": "abandoned"}
        assert [visit.query for visit in server.visits] == [
            [("topic", "a"), ("topic", "b"), ("envelope", "json")],
            [("envelope", "json")],
        ]
        assert server.visits[1].target.startswith("/topics/b?")


async def test_silent_connection_is_given_up() -> None:
    async with (
        ScriptedServer(then_stay(STREAM + OPENING + event("1-0")), stay, STREAM + END) as server,
        Client(server.url, silence_seconds=0.2, timeout_seconds=0.2) as client,
    ):
        changes: list[Connection] = []
        assert len(await rest(client.subscribe("a", on_change=changes.append))) == 1
        assert [change.why for change in changes if not change.up] == [
            "no data for 0.2 s",
            "no answer: it took too long",
        ]


async def test_heartbeats_keep_a_silent_topic_connected() -> None:
    async def beat(visit: Visit) -> None:
        await visit.send(STREAM + OPENING)
        for _ in range(20):
            await visit.send(b":\n")
            await asyncio.sleep(0.05)  # the server's pace, not a wait for the client
        await visit.send(END)

    async with ScriptedServer(beat) as server, Client(server.url, silence_seconds=0.5) as client:
        assert await rest(client.subscribe("a")) == []
        assert len(server.visits) == 1


# Refusals


@pytest.mark.parametrize(
    "refusal",
    [
        problem("503 Service Unavailable", "unavailable", "Retry-After: 0"),
        problem("503 Service Unavailable", "overloaded"),
        problem("429 Too Many Requests", "rate-limited", "Retry-After: 0"),
        problem("500 Internal Server Error", "internal"),
        answer("502 Bad Gateway", b"<html>"),
        answer("504 Gateway Timeout", b"\xff\0", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"),
        STREAM + b"retry: 20\n",
        STREAM,
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        STREAM[:40],
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda refusal: refusal.decode("latin-1").replace("\r\n", " ")[:60],
)
async def test_refusal_that_may_pass_is_outlived(refusal: bytes) -> None:
    first = STREAM + b"retry: 1\n" + event("1-0")
    async with (
        ScriptedServer(first, refusal, refusal, STREAM + END) as server,
        Client(server.url, max_delay_seconds=0.1) as client,
    ):
        assert [received.id for received in await rest(client.subscribe("a"))] == ["1-0"]
        assert [visit.cursor for visit in server.visits] == ["", "1-0", "1-0", "1-0"]


async def test_refused_stream_comes_back_after_the_delay_it_was_told() -> None:
    changes: list[Connection] = []
    async with (
        ScriptedServer(STREAM + b"retry: 120\n", STREAM + OPENING + END) as server,
        Client(server.url) as client,
    ):
        assert await rest(client.subscribe("a", on_change=changes.append)) == []
        assert [(change.up, change.retry_seconds) for change in changes] == [
            (True, 0),
            (False, 0.12),
            (True, 0),
        ]


async def test_retry_after_is_waited_for() -> None:
    changes: list[Connection] = []
    refusal = problem("503 Service Unavailable", "unavailable", "Retry-After: 3600")
    async with ScriptedServer(refusal) as server, Client(server.url) as client:
        events = client.subscribe("a", on_change=changes.append)
        waiting = asyncio.create_task(rest(events))
        await until(lambda: changes, "the refusal")
        assert changes == [Connection(up=False, why="Because.", retry_seconds=60)]
        events.close()
        assert await waiting == []


async def test_broker_that_is_not_there_yet_is_waited_for() -> None:
    with BrokerProcess() as broker:
        broker.kill()
        changes: list[Connection] = []
        async with Client(broker.url, max_delay_seconds=0.1) as client:
            connecting = asyncio.create_task(client.subscribe("a", on_change=changes.append).connect())
            await until(lambda: len(changes) >= 2, "two attempts")
            assert {change.why for change in changes} == {"no answer: Connection refused"}
            await asyncio.to_thread(broker.start)
            await asyncio.wait_for(connecting, 20)


@pytest.mark.parametrize(
    ("refusal", "code", "status"),
    [
        (problem("400 Bad Request", "invalid-parameter"), "invalid-parameter", 400),
        (problem("401 Unauthorized", "unauthorized"), "unauthorized", 401),
        (problem("403 Forbidden", "forbidden"), "forbidden", 403),
        (problem("404 Not Found", "not-found"), "not-found", 404),
        (answer("404 Not Found", b"nginx"), "unexpected", 404),
        (answer("200 OK", b"<html>", "Content-Type: text/html"), "unexpected", 200),
        (answer("304 Not Modified"), "unexpected", 304),
        (answer("302 Found", b"", "Location: /topics/a"), "unexpected", None),
    ],
)
async def test_refusal_for_good_is_raised_and_ends_it(refusal: bytes, code: str, status: int | None) -> None:
    async with ScriptedServer(refusal) as server, Client(server.url) as client:
        events = client.subscribe("a")
        with pytest.raises(SubscribeError) as raised:
            await take(events, 1)
        assert (raised.value.code, raised.value.status) == (code, status)
        visits = len(server.visits)
        assert await rest(events) == []
        assert len(server.visits) == visits


async def test_the_brokers_own_words_are_in_the_error(client: Client) -> None:
    with pytest.raises(SubscribeError, match="'since' takes an id") as raised:
        await client.subscribe("a", since="soon").connect()
    assert (raised.value.code, raised.value.status) == ("invalid-parameter", 400)


async def test_204_ends_it() -> None:
    first = STREAM + OPENING + event("1-0")
    no_content = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    async with ScriptedServer(first, no_content) as server, Client(server.url) as client:
        assert len(await rest(client.subscribe("a"))) == 1
        assert len(server.visits) == 2


async def test_wrong_arguments_are_refused_at_once(client: Client) -> None:
    with pytest.raises(SubscribeError) as raised:
        client.subscribe("a/../b")
    assert raised.value.code == "invalid-topic"
    for start in ({"since": "1h", "last": 1}, {"cursor": "a\r\nb"}, {"cursor": "ü"}):
        with pytest.raises(ValueError):
            client.subscribe("a", **start)
    with pytest.raises(ValueError, match="at least one topic"):
        client.subscribe()
    for url in (
        "localhost:8080",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://u:p@h",
        "http://h/?q",
        "http://h/#f",
    ):
        with pytest.raises(ValueError, match=r"URL|query|port|Port"):
            Client(url)


# Bounds


@pytest.mark.parametrize(
    "junk",
    [
        b"data: not json\nid: 2-0\n\n",
        b"data: [1]\nid: 2-0\n\n",
        b'data: {"topic":"a","event":null,"data":1}\nid: 2-0\n\n',
        b'data: {"topic":"a"}\nid: 2-0\n\n',
        b"event: broker.gap\ndata: 5\n\n",
        b"event: broker.end\ndata: {}\n\n",
        b"event: broker.gap\ndata: " + b"[" * 100_000 + b"\n\n",
        b"data: " + b"x" * 300_000,
        b":" * 300_000,
    ],
    ids=lambda junk: junk[:30].decode().replace("\n", " "),
)
async def test_what_no_broker_sends_is_an_error_after_what_came_before(junk: bytes) -> None:
    good = b'data: {"topic":"a","id":"1-0","event":null,"time":"","data":"x"}\nid: 1-0\n\n'
    async with (
        ScriptedServer(STREAM + good + junk) as server,
        Client(server.url, max_event_bytes=200_000) as client,
    ):
        events = client.subscribe("a", "b")
        assert await take(events, 1) == [Event("x", None, "1-0", "a")]
        with pytest.raises(SubscribeError) as raised:
            await take(events, 1)
        assert raised.value.code == ("too-large" if len(junk) > 200_000 else "unexpected")
        assert events.cursor == "1-0"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
async def test_any_bytes_end_in_an_error_or_another_attempt(junk: bytes) -> None:
    async with (
        ScriptedServer(b"HTTP/1.1 " + junk, STREAM + junk, STREAM + END) as server,
        Client(server.url, max_delay_seconds=0.01) as client,
    ):
        with contextlib.suppress(SubscribeError):
            await rest(client.subscribe("a"))


async def test_what_is_not_handed_out_yet_is_bounded_and_not_behind_the_cursor() -> None:
    sent = 0

    async def flood(visit: Visit) -> None:
        nonlocal sent
        await visit.send(STREAM + OPENING)
        while True:
            sent += 1
            await visit.send(event(f"{sent}-0", "x" * 10_000))

    async with ScriptedServer(flood) as server, Client(server.url) as client:
        events = client.subscribe("a")
        assert [received.id for received in await take(events, 2)] == ["1-0", "2-0"]
        assert events.cursor == "2-0"
        before = -1
        while before != sent:  # until the server is stuck
            before = sent
            await asyncio.sleep(0.1)
        assert len(events._pending) < 200
        assert [received.id for received in await take(events, 1000)] == [
            f"{number}-0" for number in range(3, 1003)
        ]
        assert events.cursor == "1002-0"


# Ways to end it


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
        await left(server)


async def left(server: ScriptedServer) -> None:
    """Return once the server's only visitor has gone."""
    await until(lambda: server.visits[0].reader.at_eof(), "the connection is closed")


async def test_leaving_the_loop_closes_the_connection() -> None:
    async with (
        ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server,
        Client(server.url) as client,
    ):
        async for _ in client.subscribe("a"):
            break
        gc.collect()
        await left(server)


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
        await until(lambda: server.visits, "the client is there")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left(server)


async def test_closing_the_client_ends_its_subscriptions() -> None:
    async with ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server:
        client = Client(server.url)
        events = client.subscribe("a")
        await take(events, 1)
        waiting = asyncio.create_task(rest(events))
        await asyncio.sleep(0)
        await client.close()
        assert await waiting == []
        await left(server)


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


async def test_cancelled_connecting_goes_on() -> None:
    async with (
        ScriptedServer(stay, stay, STREAM + OPENING + event("1-0")) as server,
        Client(server.url) as client,
    ):
        events = client.subscribe("a")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(events)
        assert len(await take(events, 1)) == 1
        assert len(server.visits) == 3


# Values


def test_age_grows_while_nothing_came() -> None:
    assert StartOptions(since="10m").query(0.5) == {"since": "10m"}
    assert StartOptions(since="10m").query(2.5) == {"since": "603s"}
    assert StartOptions(since="earliest").query(100) == {"since": "earliest"}
    assert StartOptions(last=3).query(100) == {"last": "3"}
    assert StartOptions().query(100) == {}


def test_gap_is_an_event_and_subscription_an_iterator() -> None:
    assert issubclass(Gap, Event)
    assert issubclass(Subscription, AsyncIterator)
