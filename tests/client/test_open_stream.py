"""Responses that are not an event stream: temporary refusals, and permanent ones."""

from __future__ import annotations

import asyncio

import pytest

from broker.client import Client, Connection, SubscribeError
from tests.client.servers import (
    END,
    OPENING,
    STREAM,
    ScriptedServer,
    answer,
    event,
    problem,
    rest,
    take,
)
from tests.support.broker_process import BrokerProcess
from tests.support.waiting import WAIT_SECONDS, until


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
async def test_a_temporary_refusal_leads_to_a_reconnect(refusal: bytes) -> None:
    first = STREAM + b"retry: 1\n" + event("1-0")
    async with (
        ScriptedServer(first, refusal, refusal, STREAM + END) as server,
        Client(server.url, max_delay_seconds=0.1) as client,
    ):
        assert [received.id for received in await rest(client.subscribe("a"))] == ["1-0"]
        assert [connection.cursor for connection in server.accepted] == ["", "1-0", "1-0", "1-0"]


async def test_a_refused_stream_reconnects_after_the_delay_in_retry() -> None:
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


async def test_a_reconnect_waits_for_retry_after() -> None:
    changes: list[Connection] = []
    refusal = problem("503 Service Unavailable", "unavailable", "Retry-After: 3600")
    async with ScriptedServer(refusal) as server, Client(server.url) as client:
        events = client.subscribe("a", on_change=changes.append)
        waiting = asyncio.create_task(rest(events))
        await until(lambda: changes, "the refusal")
        assert changes == [Connection(up=False, why="Because.", retry_seconds=60)]
        events.close()
        assert await waiting == []


async def test_connecting_waits_until_the_broker_has_started() -> None:
    with BrokerProcess() as broker:
        broker.kill()
        changes: list[Connection] = []
        async with Client(broker.url, max_delay_seconds=0.1) as client:
            connecting = asyncio.create_task(client.subscribe("a", on_change=changes.append).connect())
            await until(lambda: len(changes) >= 2, "two attempts")
            assert {change.why for change in changes} == {"no answer: Connection refused"}
            await asyncio.to_thread(broker.start)
            await asyncio.wait_for(connecting, WAIT_SECONDS)


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
async def test_a_permanent_refusal_is_raised_and_ends_the_subscription(
    refusal: bytes, code: str, status: int | None
) -> None:
    async with ScriptedServer(refusal) as server, Client(server.url) as client:
        events = client.subscribe("a")
        with pytest.raises(SubscribeError) as raised:
            await take(events, 1)
        assert (raised.value.code, raised.value.status) == (code, status)
        accepted = len(server.accepted)
        assert await rest(events) == []
        assert len(server.accepted) == accepted


async def test_the_error_contains_the_brokers_detail(client: Client) -> None:
    with pytest.raises(SubscribeError, match="'since' takes an id") as raised:
        await client.subscribe("a", since="soon").connect()
    assert (raised.value.code, raised.value.status) == ("invalid-parameter", 400)


async def test_a_204_ends_the_subscription() -> None:
    first = STREAM + OPENING + event("1-0")
    no_content = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    async with ScriptedServer(first, no_content) as server, Client(server.url) as client:
        assert len(await rest(client.subscribe("a"))) == 1
        assert len(server.accepted) == 2
