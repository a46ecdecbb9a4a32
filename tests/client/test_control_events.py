"""The broker's own events, and invalid events."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.client import Client, End, SubscribeError
from broker.events import Event
from tests.client.servers import (
    END,
    OPENING,
    STREAM,
    ScriptedServer,
    rest,
    take,
)


async def test_open_sets_the_cursor_and_is_not_returned() -> None:
    opening = b'event: broker.open\ndata: {"topics":["a"]}\nid: 7-0\n\n'
    async with (
        ScriptedServer(STREAM + OPENING + opening, STREAM + END) as server,
        Client(server.url) as client,
    ):
        assert await rest(client.subscribe("a")) == []
        assert [connection.cursor for connection in server.accepted] == ["", "7-0"]


async def test_a_gap_does_not_change_the_cursor() -> None:
    gap = b'event: broker.gap\ndata: {"topic":"a","after":"5-0","reason":"lost"}\n\n'
    async with ScriptedServer(STREAM + OPENING + gap, STREAM + END) as server, Client(server.url) as client:
        (told,) = await rest(client.subscribe("a", cursor="5-0"))
        assert (told.type, told.id) == ("broker.gap", "5-0")
        assert [connection.cursor for connection in server.accepted] == ["5-0", "5-0"]


async def test_cancel_is_returned() -> None:
    cancel = b'event: broker.cancel\ndata: {"topic":"a"}\n\n'
    async with ScriptedServer(STREAM + cancel + END) as server, Client(server.url) as client:
        assert await rest(client.subscribe("a")) == [Event('{"topic":"a"}', "broker.cancel", "", "a")]


async def test_an_end_comes_after_its_topics_last_event(client: Client) -> None:
    """Also before events of other topics that were read with it."""
    async with client.subscribe("a", "b", ends=True) as events:
        await client.publish("a", "1")
        await client.end("a", "done")
        await client.publish("b", "2", end=True)
        told = await rest(events)
    assert [(event.topic, event.reason if isinstance(event, End) else event.data) for event in told] == [
        ("a", "1"),
        ("a", "done"),
        ("b", "2"),
        ("b", "closed"),
    ]
    assert events.ended == {"a": "done", "b": "closed"}
    assert events.cursor == told[-1].id


async def test_a_topic_that_has_ended_is_not_requested_again() -> None:
    enveloped = b'data: {"topic":"b","id":"100-0","event":null,"time":"","data":"x"}\nid: 100-0\n\n'
    end_of_b = END.replace(b'"a"', b'"b"').replace(b"closed", b"abandoned").replace(b"99", b"101")
    async with (
        ScriptedServer(STREAM + OPENING + END, STREAM + enveloped + end_of_b) as server,
        Client(server.url) as client,
    ):
        events = client.subscribe("a", "b")
        assert await rest(events) == [Event("x", None, "100-0", "b")]
        assert events.ended == {"a": "closed", "b": "abandoned"}
        assert [connection.query for connection in server.accepted] == [
            [("topic", "a"), ("topic", "b"), ("envelope", "json")],
            [("envelope", "json")],
        ]
        assert server.accepted[1].target.startswith("/topics/b?")


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
async def test_an_invalid_event_is_an_error_after_the_events_before_it(junk: bytes) -> None:
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
async def test_any_bytes_lead_to_an_error_or_a_reconnect(junk: bytes) -> None:
    async with (
        ScriptedServer(b"HTTP/1.1 " + junk, STREAM + junk, STREAM + END) as server,
        Client(server.url, max_delay_seconds=0.01) as client,
    ):
        with contextlib.suppress(SubscribeError):
            await rest(client.subscribe("a"))
