"""Publishing: events arrive; some failures are retried and others never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from broker.client import Client, ClientError, Published, PublishError
from broker.events import Event
from tests.client.servers import (
    CREATED,
    ScriptedServer,
    ServerConnection,
    answer,
    problem,
    stay,
    take,
)
from tests.support.broker_process import BrokerProcess
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import WAIT_SECONDS


def keys(server: ScriptedServer) -> list[str | None]:
    """The idempotency keys that the server received."""
    return [connection.headers.get("idempotency-key") for connection in server.accepted]


# One event


@pytest.mark.parametrize(
    ("data", "event_type", "arrives"),
    [
        ("hello", None, "hello"),
        ("", None, ""),
        ("ü€😀\n\n", "größe &=?#+%", "ü€😀\n\n"),
        (b"bytes \xc3\xbc", "t", "bytes ü"),
        ("x" * 262_144, None, "x" * 262_144),
    ],
    ids=["plain", "empty", "unicode", "bytes", "largest"],
)
async def test_a_published_event_arrives(
    client: Client, data: str | bytes, event_type: str | None, arrives: str
) -> None:
    async with client.subscribe("a:b@c.~d-_") as events:
        event_id = await client.publish("a:b@c.~d-_", data, event_type)
        assert await take(events, 1) == [Event(arrives, event_type, event_id, "a:b@c.~d-_")]


async def test_one_event_goes_to_several_topics(client: Client) -> None:
    async with client.subscribe("a", "b", "c") as events:
        ids = await client.publish_to(["a", "b", "a"], "x", "t")
        assert list(ids) == ["a", "b"]
        ids |= await client.publish_to(["c"], "x", "t")
        assert await take(events, 3) == [Event("x", "t", ids[topic], topic) for topic in "abc"]


async def test_an_event_may_end_its_topic(client: Client) -> None:
    async with client.subscribe("a", "b", "c") as events:
        await client.publish("a", "x", "t", end=True, retain="2h", reason="done")
        await client.publish_to(["b", "d"], "y", end=True, reason="failed")
        await client.end("b", "too-late")
        await client.end("c")
        assert [(event.data, event.type) async for event in events] == [("x", "t"), ("y", None)]
        assert events.ended == {"a": "done", "b": "failed", "c": "closed"}
    with pytest.raises(PublishError) as caught:
        await client.publish("a", "more")
    assert caught.value.code == "closed"
    with pytest.raises(PublishError) as caught:
        await client.end("e", "deleted")
    assert caught.value.code == "invalid-parameter"


async def test_an_idempotency_key_publishes_once(client: Client) -> None:
    first = await client.publish("a", "x", idempotency_key="k")
    assert await client.publish("a", "other", idempotency_key="k") == first
    assert await client.publish_to(["a", "b"], "x", idempotency_key="l") == await client.publish_to(
        ["a", "b"], "x", idempotency_key="l"
    )
    assert await client.publish("a", "x") != await client.publish("a", "x")


@pytest.mark.parametrize(
    ("topic", "data", "event_type", "code", "status"),
    [
        ("a", b"\xff", None, "invalid-body", 400),
        ("a", "x", "broker.mine", "invalid-parameter", 400),
        ("a", "x", "a\r\nb", "invalid-parameter", 400),
        ("a", "x", "", "invalid-parameter", 400),
        ("a", "x" * 262_145, None, "too-large", 413),
        ("_a", "x", None, "forbidden", 403),
        ("a/b", "x", None, "invalid-topic", None),
        ("../healthz", "x", None, "invalid-topic", None),
        ("", "x", None, "invalid-topic", None),
    ],
)
async def test_a_refusal_is_an_error_with_its_code(
    client: Client, topic: str, data: str | bytes, event_type: str | None, code: str, status: int | None
) -> None:
    with pytest.raises(PublishError) as raised:
        await client.publish(topic, data, event_type)
    assert isinstance(raised.value, ClientError)
    assert (raised.value.code, raised.value.status) == (code, status)
    assert str(raised.value) == f"{raised.value.detail} ({code})"


async def test_members_of_a_problem_are_kept() -> None:
    refusal = problem("429 Too Many Requests", "rate-limited", "Retry-After: 7", limit=5)
    async with ScriptedServer(refusal) as server, Client(server.url, patience_seconds=0) as client:
        with pytest.raises(PublishError, match=r"Because\. \(rate-limited\)") as raised:
            await client.publish("a", "x")
    assert (raised.value.retry_after, raised.value.extra) == (7, {"limit": 5})


@pytest.mark.parametrize(
    "strange",
    [
        answer("201 Created", b"<html>"),
        answer("201 Created", b"{}"),
        answer("201 Created", b"[" * 60_000),
        answer("200 OK", b'{"id": "1-0"}'),
        answer("307 Temporary Redirect", b"", "Location: /elsewhere"),
        answer("404 Not Found", b"<html>nginx"),
        answer("418 I'm a Teapot", b'{"code": 5, "detail": []}'),
    ],
)
async def test_a_response_that_no_broker_sends_is_an_error(strange: bytes) -> None:
    async with ScriptedServer(strange) as server, Client(server.url) as client:
        with pytest.raises(PublishError) as raised:
            await client.publish("a", "x")
        assert raised.value.code == "unexpected"
        assert len(server.accepted) == 1


# Retries


async def vanish(_connection: ServerConnection) -> None:
    """Close the connection without a response."""


async def reset(connection: ServerConnection) -> None:
    connection.reset()


@pytest.mark.parametrize(
    "failure",
    [
        vanish,
        reset,
        CREATED[:20],
        CREATED[:-5],
        b"junk\r\n\r\n",
        problem("503 Service Unavailable", "unavailable", "Retry-After: 0"),
        answer("502 Bad Gateway", b"<html>"),
        problem("500 Internal Server Error", "internal"),
    ],
)
async def test_a_failed_attempt_is_repeated_with_the_same_key(failure: bytes) -> None:
    async with ScriptedServer(failure, failure, CREATED) as server, Client(server.url) as client:
        assert await client.publish("a", "x", "t") == "5-0"
        assert len(set(keys(server))) == 1
        assert keys(server)[0]
        assert [(connection.target, connection.body) for connection in server.accepted] == [
            ("/topics/a?event=t", b"x")
        ] * 3
        assert await client.publish("a", "x") == "5-0"
        assert keys(server)[3] != keys(server)[0]


async def test_an_attempt_without_a_response_is_repeated() -> None:
    async with ScriptedServer(stay, CREATED) as server, Client(server.url, timeout_seconds=1) as client:
        assert await client.publish("a", "x", idempotency_key="mine") == "5-0"
        assert len(server.accepted) > 1
        assert set(keys(server)) == {"mine"}


async def test_retries_end_after_the_time_limit() -> None:
    refusal = problem("503 Service Unavailable", "unavailable", "Retry-After: 3600")
    async with ScriptedServer(refusal) as server, Client(server.url) as client:
        with pytest.raises(PublishError) as raised:
            await client.publish("a", "x")
        assert (raised.value.code, raised.value.retry_after) == ("unavailable", 3600)
        assert len(server.accepted) == 1
    async with ScriptedServer(vanish) as server, Client(server.url, patience_seconds=3) as client:
        with pytest.raises(PublishError) as raised:
            await client.publish("a", "x")
        assert (raised.value.code, raised.value.status) == ("unreachable", None)
        assert len(server.accepted) > 1


async def test_without_a_time_limit_for_retries_there_is_one_attempt_and_no_key() -> None:
    async with ScriptedServer(vanish) as server, Client(server.url, patience_seconds=0) as client:
        with pytest.raises(PublishError):
            await client.publish("a", "x")
        assert keys(server) == [None]


FULL = problem("429 Too Many Requests", "rate-limited", "Retry-After: 30")


async def test_without_room_for_keys_an_event_is_sent_without_one_and_not_repeated_in_doubt() -> None:
    async with ScriptedServer(FULL, CREATED, CREATED, vanish) as server, Client(server.url) as client:
        assert await client.publish("a", "1") == "5-0"
        assert await client.publish("a", "2") == "5-0"
        first, *others = keys(server)
        assert first
        assert others == [None, None]
        with pytest.raises(PublishError) as raised:
            await client.publish("a", "3")
        assert raised.value.code == "unreachable"
        assert len(server.accepted) == 4


async def test_the_key_is_kept_if_an_attempt_is_in_doubt() -> None:
    full = problem("429 Too Many Requests", "rate-limited", "Retry-After: 0")
    async with ScriptedServer(vanish, full, CREATED) as server, Client(server.url) as client:
        assert await client.publish("a", "x") == "5-0"
        assert len(set(keys(server))) == 1
        assert keys(server)[0]


async def test_a_key_of_the_caller_is_never_dropped() -> None:
    full = problem("429 Too Many Requests", "rate-limited", "Retry-After: 0")
    async with ScriptedServer(full, CREATED) as server, Client(server.url) as client:
        assert await client.publish("a", "x", idempotency_key="mine") == "5-0"
        assert len(server.accepted) > 1
        assert set(keys(server)) == {"mine"}


async def test_without_a_key_a_refused_connection_is_retried(broker: BrokerProcess) -> None:
    async with Client(broker.url, patience_seconds=WAIT_SECONDS) as client:
        client._get_publisher()._room._full_until = float("inf")
        await asyncio.to_thread(broker.kill)
        publishing = asyncio.create_task(client.publish("a", "x"))
        await asyncio.to_thread(broker.start)
        assert await asyncio.wait_for(publishing, WAIT_SECONDS)


async def test_a_publish_survives_a_restart_of_the_broker(broker: BrokerProcess) -> None:
    async with Client(broker.url) as client:
        await client.publish("a", "before")
        await asyncio.to_thread(broker.kill)
        publishing = asyncio.create_task(client.publish("a", "after"))
        await asyncio.to_thread(broker.start)
        event_id = await asyncio.wait_for(publishing, WAIT_SECONDS)
        async with client.subscribe("a", since="earliest") as events:
            assert await take(events, 1) == [Event("after", None, event_id, "a")]


async def test_lost_responses_publish_nothing_twice(broker: BrokerProcess) -> None:
    async with TcpProxy(broker.port) as proxy, Client(broker.url) as direct, Client(proxy.url) as client:
        expected = []
        async with direct.subscribe("a") as events:
            for number in range(20):
                proxy.swallow = True
                publishing = asyncio.create_task(client.publish("a", str(number)))
                assert [event.data for event in await take(events, 1)] == [str(number)]
                proxy.cut()
                proxy.swallow = False
                expected.append(await asyncio.wait_for(publishing, WAIT_SECONDS))
        async with direct.subscribe("a", since="earliest") as events:
            assert [event.id for event in await take(events, 20)] == expected
            await direct.publish("a", "last")
            assert [event.data for event in await take(events, 1)] == ["last"]


# Streams


async def test_lines_of_any_kind_are_published_in_order(client: Client) -> None:
    async with client.subscribe("a") as events:
        published = await client.publish_lines("a", ["x", Event("y\nz", "t", "ignored", "ignored"), "", "ü"])
        received = await take(events, 4)
    assert [(event.data, event.type) for event in received] == [
        ("x", None),
        ("y\nz", "t"),
        ("", None),
        ("ü", None),
    ]
    assert published == Published(4, received[0].id, received[-1].id)


async def test_each_line_names_its_topic(client: Client) -> None:
    async with client.subscribe("a", "b") as events:
        lines = [Event("1", topic="a"), Event("2", "t", topic="b")]
        assert await client.publish_lines(None, lines) == Published(2)
        assert [(event.topic, event.data, event.type) for event in await take(events, 2)] == [
            ("a", "1", None),
            ("b", "2", "t"),
        ]


async def test_no_lines_publish_nothing(client: Client) -> None:
    assert await client.publish_lines("a", []) == Published(0)


async def test_lines_arrive_while_the_stream_continues(client: Client) -> None:
    async with client.subscribe("a") as events:

        async def dialogue() -> AsyncIterator[str]:
            for number in range(10):
                yield str(number)
                assert [event.data for event in await take(events, 1)] == [str(number)]

        assert (await client.publish_lines("a", dialogue())).count == 10


async def test_many_lines_at_once() -> None:
    with BrokerProcess(retention_events=20_000, retention_bytes=10_000_000) as broker:
        async with (
            Client(broker.url, timeout_seconds=WAIT_SECONDS) as client,
            client.subscribe("a") as events,
        ):
            receiving = asyncio.create_task(take(events, 20_000))
            assert (
                await client.publish_lines("a", (str(number) for number in range(20_000)))
            ).count == 20_000
            received = [event.data for event in await receiving]
    assert received == [str(number) for number in range(20_000)]


async def test_a_subscription_can_be_republished(client: Client) -> None:
    async with client.subscribe("a") as source, client.subscribe("copy") as copies:
        copying = asyncio.create_task(client.publish_lines("copy", source))
        await client.publish("a", "1", "t")
        assert [(event.data, event.type) for event in await take(copies, 1)] == [("1", "t")]
        source.close()
        assert (await copying).count == 1


@pytest.mark.parametrize(
    "failure", [KeyError("mine"), TimeoutError("mine"), OSError("mine"), ValueError("mine")]
)
async def test_an_error_of_the_source_is_raised_and_the_events_before_it_are_published(
    client: Client, failure: Exception
) -> None:
    async with client.subscribe("a") as events:

        async def failing() -> AsyncIterator[str]:
            yield "1"
            await take(events, 1)
            raise failure

        with pytest.raises(type(failure), match="mine"):
            await client.publish_lines("a", failing())

        def failing_at_once() -> Iterator[str]:
            yield "never sent"
            raise failure

        with pytest.raises(type(failure), match="mine"):
            await client.publish_lines("a", failing_at_once())


async def test_the_error_names_the_bad_line_and_the_lines_before_it_are_published(client: Client) -> None:
    with pytest.raises(PublishError) as raised:
        await client.publish_lines("a", ["1", "2", Event("3", "broker.x"), "4"])
    assert (raised.value.code, raised.value.status) == ("invalid-parameter", 400)
    assert raised.value.extra == {"line": 3, "published": 2}
    async with client.subscribe("a", since="earliest") as events:
        assert [event.data for event in await take(events, 2)] == ["1", "2"]


async def test_a_response_before_the_end_of_the_stream_is_read() -> None:
    cancelled = problem("409 Conflict", "cancelled", published=1)
    stopped = asyncio.Event()

    async def cancel(connection: ServerConnection) -> None:
        await connection.reader.readuntil(b"\n\r\n")
        await connection.send(cancelled)
        await connection.left()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    async with ScriptedServer(cancel) as server, Client(server.url) as client:
        with pytest.raises(PublishError) as raised:
            await client.publish_lines("a", endless())
        assert (raised.value.code, raised.value.extra) == ("cancelled", {"published": 1})
        await asyncio.wait_for(stopped.wait(), WAIT_SECONDS)


async def test_a_response_is_read_while_the_source_is_silent(client: Client) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"no json\n"
        await asyncio.Event().wait()

    with pytest.raises(PublishError) as raised:
        await asyncio.wait_for(client.publish_ndjson("a", silent()), WAIT_SECONDS)
    assert (raised.value.code, raised.value.extra["line"]) == ("invalid-body", 1)


@pytest.mark.parametrize("end", [vanish, reset, stay])
async def test_a_cut_stream_is_an_error_and_not_repeated(end: bytes) -> None:
    async with ScriptedServer(end) as server, Client(server.url, timeout_seconds=0.3) as client:
        with pytest.raises(PublishError) as raised:
            await client.publish_lines("a", ["x"])
        assert raised.value.code == "unreachable"
        assert len(server.accepted) == 1


async def test_a_cancelled_publish_disconnects(broker: BrokerProcess) -> None:
    async with Client(broker.url) as client, client.subscribe("a") as events:

        async def slow() -> AsyncIterator[str]:
            yield "1"
            await asyncio.Event().wait()

        publishing = asyncio.create_task(client.publish_lines("a", slow()))
        await take(events, 1)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert await client.publish("a", "2")
