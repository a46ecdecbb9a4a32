"""The client as a whole: its session, its subscriptions, its arguments."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from broker.client import Client, SubscribeError
from broker.events import Event
from tests.client.servers import (
    CREATED,
    OPENING,
    STREAM,
    ScriptedServer,
    event,
    rest,
    take,
    then_stay,
    wait_for_leave,
)
from tests.support.broker_process import BrokerProcess
from tests.support.waiting import until


async def test_invalid_arguments_are_refused_at_once(client: Client) -> None:
    with pytest.raises(SubscribeError) as raised:
        client.subscribe("a/../b")
    assert raised.value.code == "invalid-topic"
    for start in ({"since": "1h", "last": 1}, {"cursor": "a\r\nb"}, {"cursor": "ü"}):
        with pytest.raises(ValueError):
            client.subscribe("a", **start)
    with pytest.raises(ValueError, match="at least one topic"):
        client.subscribe()


async def test_a_session_of_the_caller_stays_open(broker: BrokerProcess) -> None:
    async with aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
        async with Client(broker.url, session=session) as client:
            await client.publish("a", "x")
        assert not session.closed


async def test_the_url_may_have_a_path() -> None:
    async with ScriptedServer(CREATED) as server, Client(server.url + "/events/", token="t") as client:
        await client.publish("a", "x")
        assert server.accepted[0].target == "/events/topics/a"
        assert server.accepted[0].headers["authorization"] == "Bearer t"


async def test_closing_the_client_disconnects_its_subscriptions(broker: BrokerProcess) -> None:
    client = Client(broker.url)
    await client.publish("a", "x")
    events = client.subscribe("a")
    await events.connect()
    await client.close()
    assert await rest(events) == []
    await until(lambda: broker.metric("broker_subscribers") == 0, "the broker has no subscriber")


async def test_a_client_has_more_subscriptions_than_aiohttps_default_limit(client: Client) -> None:
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(client.subscribe("a")) for _ in range(120)]
        event_id = await client.publish("a", "all")
        for events in streams:
            assert await take(events, 1) == [Event("all", None, event_id, "a")]


async def test_closing_the_client_ends_its_subscriptions() -> None:
    async with ScriptedServer(then_stay(STREAM + OPENING + event("1-0"))) as server:
        client = Client(server.url)
        events = client.subscribe("a")
        await take(events, 1)
        waiting = asyncio.create_task(rest(events))
        await asyncio.sleep(0)
        await client.close()
        assert await waiting == []
        await wait_for_leave(server)
