"""Subscriptions without asyncio, and the requests of the client that read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from broker.client import (
    BlockingClient,
    BlockingSubscription,
    ClientError,
    Connection,
    End,
    Gap,
    SubscribeError,
    address,
)
from broker.events import Event
from tests.client.servers import (
    END,
    OPENING,
    SILENCES,
    STREAM,
    ScriptedServer,
    ServerConnection,
    SilentServer,
    answer,
    event,
    problem,
    then_stay,
    wait_for_leave,
)
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.local_broker import Serve
from tests.support.tcp_proxy import TcpProxy
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS, until, wait_for


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[BlockingClient]:
    with BlockingClient(broker.url) as client:
        yield client


def take(events: BlockingSubscription, count: int) -> list[Event]:
    return list(islice(events, count))


async def everything(url: str, *topics: str, **options: object) -> list[Event]:
    """All events of a subscription, in a thread."""

    def read() -> list[Event]:
        with BlockingClient(url, silence_seconds=5, max_delay_seconds=0.2) as client:
            return list(client.subscribe(*topics, **options))  # type: ignore[arg-type]

    return await asyncio.wait_for(asyncio.to_thread(read), WAIT_SECONDS)


# A broker


def test_events_arrive_with_topic_id_type_and_data(client: BlockingClient) -> None:
    with client.subscribe("a", "b") as events:
        first = client.publish("b", "two\nlines ü", "t")
        ids = client.publish_to(["a"], "")
        assert take(events, 2) == [Event("two\nlines ü", "t", first, "b"), Event("", None, ids["a"], "a")]
        assert events.cursor == ids["a"]


def test_ends_and_gaps_are_told_by_value(shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(retention_events=2)
    with BlockingClient(broker.url) as client:
        ids = [client.publish("a", text) for text in "12345"]
        client.end("a", "done")
        with client.subscribe("a", cursor=ids[0], ends=True) as events:
            gap, *others, end = events
    assert isinstance(gap, Gap)
    assert (gap.topic, gap.after, gap.reason) == ("a", ids[0], "trimmed")
    assert [one.data for one in others] == ["4", "5"]
    assert isinstance(end, End)
    assert (end.topic, end.reason) == ("a", "done")
    assert events.ended == {"a": "done"}
    assert events.cursor == end.id


@pytest.mark.parametrize("reason", ["closed", "failed"])
def test_follow_reads_to_the_end_and_says_whether_the_topic_is_complete(
    client: BlockingClient, reason: str
) -> None:
    client.publish("a", "x")
    client.end("a", reason)
    received = []
    if reason == "closed":
        received = list(client.follow("a"))
    else:
        with pytest.raises(SubscribeError, match="failed"):
            received.extend(client.follow("a"))
        received = list(client.follow("a", ends=True))[:-1]
    assert [one.data for one in received] == ["x"]


@pytest.mark.parametrize("topics", [("a",), ("a", "b")])
def test_a_subscription_starts_where_it_was_asked_to(client: BlockingClient, topics: tuple[str, ...]) -> None:
    ids = [client.publish("a", str(number)) for number in range(5)]
    for start, expected in (
        ({"since": "earliest"}, ids),
        ({"since": "10m"}, ids),
        ({"last": 2}, ids[3:]),
        ({"cursor": ids[2]}, ids[3:]),
    ):
        with client.subscribe(*topics, **start) as events:
            assert [received.id for received in take(events, len(expected))] == expected


def test_a_cursor_at_the_end_of_its_topic_ends_the_iteration(client: BlockingClient) -> None:
    client.publish("a", "x", end=True)
    events = client.subscribe("a", since="earliest")
    assert len(list(events)) == 1
    assert list(client.subscribe("a", cursor=events.cursor)) == []


def test_a_subscription_continues_after_a_drain_and_restart(shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(retry_min_ms=10, retry_max_ms=50, drain_seconds=0.1)
    changes: list[Connection] = []
    with (
        BlockingClient(broker.url, max_delay_seconds=0.2) as client,
        client.subscribe("a", on_change=changes.append) as events,
        ThreadPoolExecutor() as threads,
    ):
        first = client.publish("a", "before")
        following = threads.submit(take, events, 3)
        assert broker.terminate() == 0
        wait_for(lambda: not changes[-1].up, "the client sees the end of its stream")
        broker.start()
        second = client.publish("a", "after")
        before, gap, after = following.result(WAIT_SECONDS)
    assert (before.id, after.id) == (first, second)
    assert isinstance(gap, Gap)


async def test_i2_dropped_connections_lose_nothing_and_double_nothing(serve: Serve) -> None:
    """The connection is cut thirty times, at any byte, while 600 events are published."""
    server = await serve(retry_min_ms=0, retry_max_ms=10)
    async with TcpProxy(server.port) as proxy:
        with BlockingClient(proxy.url, max_delay_seconds=0.2) as client:
            events = client.subscribe("a", since="earliest")
            received = asyncio.create_task(asyncio.to_thread(take, events, 600))
            for batch in range(30):
                for number in range(20):
                    await server.publish("a", f"{batch}.{number} " + "x" * 200)
                connections = proxy.connections
                proxy.cut()
                await until(lambda: proxy.connections > connections or received.done(), "it is back")  # noqa: B023
            got = await received
            events.close()
    expected = [f"{batch}.{number}" for batch in range(30) for number in range(20)]
    assert [one.data.split()[0] for one in got] == expected


# Cuts


WIRE = OPENING + event("1-0", "one") + b":\nevent: t\ndata: two\ndata: 2\nid: 2-0\n\n" + event("3-0", "three")
EXPECTED = [
    Event("one", None, "1-0", "a"),
    Event("two\n2", "t", "2-0", "a"),
    Event("three", None, "3-0", "a"),
]


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
async def test_a_stream_cut_at_any_byte_continues(reset: bool) -> None:
    async def resume(connection: ServerConnection) -> None:
        behind = {
            "": WIRE,
            "1-0": WIRE[WIRE.index(b"event: t") :],
            "2-0": event("3-0", "three"),
            "3-0": b"",
        }
        await connection.send(STREAM + behind[connection.cursor] + END)

    for cut in range(0, len(WIRE) + 1, 3):

        async def cut_short(connection: ServerConnection, cut: int = cut) -> None:
            await connection.send(STREAM + b"retry: 1\n" + WIRE[:cut].replace(b"retry: 10", b"retry: 01"))
            if reset:
                connection.reset()

        async with ScriptedServer(cut_short, resume) as server:
            assert await everything(server.url, "a", since="earliest") == EXPECTED


CHUNKED = STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n", b"5\r\nda", b"-1\r\n", b"", b"f" * 70_000],
    ids=["no size", "cut chunk", "negative", "cut", "long size"],
)
async def test_a_body_that_is_not_chunked_well_is_a_lost_connection(body: bytes) -> None:
    async with ScriptedServer(CHUNKED + b"9\r\nretry: 1\n\r\n" + body, STREAM + END) as server:
        assert await everything(server.url, "a") == []
        assert len(server.accepted) == 2


async def test_a_silent_connection_is_replaced() -> None:
    changes: list[Connection] = []

    def read(url: str) -> list[Event]:
        with BlockingClient(url, silence_seconds=0.2, timeout_seconds=1) as client:
            return list(client.subscribe("a", on_change=changes.append))

    async with SilentServer(changes) as server:
        assert len(await asyncio.to_thread(read, server.url)) == 1
    assert {change.why for change in changes if not change.up} == SILENCES


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (problem("403 Forbidden", "forbidden"), "forbidden"),
        (answer("200 OK", b"<html>", "Content-Type: text/html"), "unexpected"),
        (answer("302 Found", b"", "Location: /"), "unexpected"),
        (STREAM + b"event: broker.end\ndata: []\n\n", "unexpected"),
    ],
)
async def test_refusals_end_it(response: bytes, code: str) -> None:
    async with ScriptedServer(response) as server:
        with pytest.raises(SubscribeError) as caught:
            await everything(server.url, "a")
    assert caught.value.code == code


async def test_an_event_that_is_too_large_ends_it() -> None:
    def read(url: str) -> None:
        with BlockingClient(url, max_event_bytes=1000) as client:
            events = client.subscribe("a")
            assert next(events).data == "x"
            with pytest.raises(SubscribeError) as caught:
                next(events)
            assert caught.value.code == "too-large"
            assert list(events) == []

    async with ScriptedServer(STREAM + event("1-0") + event("2-0", "x" * 2000)) as server:
        await asyncio.to_thread(read, server.url)


async def test_a_temporary_refusal_is_retried() -> None:
    busy = problem("503 Service Unavailable", "overloaded", "Retry-After: 0")
    async with ScriptedServer(busy, b"", STREAM + b"retry: 1\n" + END) as server:
        assert await everything(server.url, "a") == []
        assert len(server.accepted) == 3


# Closing


def test_another_thread_may_close_it(client: BlockingClient, broker: BrokerProcess) -> None:
    with ThreadPoolExecutor() as threads:
        for _ in range(20):
            events = client.subscribe("a")
            events.connect()
            reading = threads.submit(list, events)
            wait_for(lambda: events._is_reading, "it waits for an event")  # noqa: B023
            events.close()
            assert reading.result(WAIT_SECONDS) == []
            assert not events.connected
    wait_for(lambda: broker.metric("broker_subscribers") == 0, "the broker has no subscriber")


async def test_closing_ends_the_wait_for_the_next_attempt() -> None:
    changes: list[Connection] = []
    async with ScriptedServer(b"") as server:
        with BlockingClient(server.url) as client:
            events = client.subscribe("a", on_change=changes.append)
            reading = asyncio.create_task(asyncio.to_thread(list, events))
            await until(lambda: changes, "the first attempt has failed")
            events.close()
            assert await reading == []


async def test_closing_the_client_ends_its_subscriptions() -> None:
    async with ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server:
        client = BlockingClient(server.url)
        events = client.subscribe("a")
        assert len(await asyncio.to_thread(take, events, 1)) == 1
        reading = asyncio.create_task(asyncio.to_thread(list, events))
        await until(lambda: events._is_reading, "it waits for an event")
        client.close()
        assert await reading == []
        await wait_for_leave(server)


async def test_leaving_the_loop_closes_the_connection() -> None:
    def first(url: str) -> None:
        with BlockingClient(url) as client:
            for _ in client.subscribe("a"):
                break

    async with ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server:
        await asyncio.to_thread(first, server.url)
        await wait_for_leave(server)


def test_many_threads_follow_one_topic(client: BlockingClient) -> None:
    ready = threading.Barrier(9)

    def follow() -> list[str]:
        with client.subscribe("a") as events:
            ready.wait(WAIT_SECONDS)
            return [one.data for one in events]

    with ThreadPoolExecutor(8) as threads:
        following = [threads.submit(follow) for _ in range(8)]
        ready.wait(WAIT_SECONDS)
        texts = [str(number) for number in range(100)]
        for text in texts:
            client.publish("a", text)
        client.end("a")
        assert [one.result(WAIT_SECONDS) for one in following] == [texts] * 8


# Other requests


def test_history_topics_and_delete(client: BlockingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "TOPICS_PAGE", 2)
    ids = [client.publish("list.a", text) for text in "123"]
    for topic in "bcde":
        client.publish(f"list.{topic}", "x", end=topic == "c")
    history = client.history("list.a", last=2)
    assert [one.id for one in history.events] == ids[1:]
    assert (history.cursor, history.closed) == (ids[2], False)
    assert client.history("list.c").closed
    assert [
        (state.topic, state.events, state.closed)
        for state in client.topics()
        if state.topic.startswith("list.")
    ] == [(f"list.{topic}", 3 if topic == "a" else 1, topic == "c") for topic in "abcde"]
    client.delete("list.c")
    assert client.history("list.c").events == []
    client.publish("list.c", "open again")


async def test_refusals_of_requests(serve: Serve) -> None:
    server = await serve(jwt_secrets=[SECRET])

    def ask() -> None:
        with BlockingClient(server.url, token=lambda: HMAC.token(["a"], ["a"])) as client:
            client.publish("a", "x")
            assert [one.data for one in client.history("a").events] == ["x"]
            for refused in (
                lambda: client.delete("a"),
                lambda: next(client.topics()),
                lambda: client.history("b"),
                lambda: client.publish("b", "x"),
                lambda: client.cancel("b"),
            ):
                with pytest.raises(ClientError) as caught:
                    refused()
                assert caught.value.code == "forbidden"

    await asyncio.to_thread(ask)


def test_invalid_arguments_are_refused_at_once(client: BlockingClient) -> None:
    with pytest.raises(SubscribeError, match="invalid-topic"):
        client.subscribe("a/../b")
    for start in ({"since": "1h", "last": 1}, {"cursor": "a\r\nb"}):
        with pytest.raises(ValueError):
            client.subscribe("a", **start)
    with pytest.raises(ValueError, match="at least one topic"):
        client.subscribe()
    with pytest.raises(ValueError, match="URL"):
        BlockingClient("localhost:8080")
