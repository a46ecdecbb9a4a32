"""Responses that are not an event stream: temporary refusals, and final ones."""

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
from tests.support.waiting import until


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
