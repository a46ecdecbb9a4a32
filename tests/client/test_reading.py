"""The history of topics, and deleting them."""

from __future__ import annotations

import pytest

from broker.client import Client, ClientError, Gap, PublishError, TopicState, address
from broker.client.reading import decode_history, decode_topics
from broker.client.response import Response
from broker.events import Event
from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC, SECRET

STATE = (
    b'{"next": null, "topics": [{"topic": "a", "subscribers": 1, "events": 2, "bytes": 3, '
    b'"first_id": "4-0", "last_id": "5-0", "closed": true}]}'
)
HISTORY = (
    b'{"events": [{"data": "a", "event": "b", "id": "1-0", "topic": "t"}], "cursor": "", "more": false, '
    b'"gap": {"topic": "c", "after": "2-0", "reason": "lost"}, "closed": false}'
)
"""Responses of a broker."""


async def test_history_then_a_subscription_from_its_cursor(server: Server) -> None:
    async with Client(server.url) as client:
        ids = [await client.publish("a", text, "t" if text == "2" else None) for text in ("1", "2", "3")]
        history = await client.history("a")
        assert [(event.data, event.type, event.id, event.topic) for event in history.events] == [
            ("1", None, ids[0], "a"),
            ("2", "t", ids[1], "a"),
            ("3", None, ids[2], "a"),
        ]
        assert (history.cursor, history.more, history.gap, history.closed) == (ids[2], False, None, False)
        async with client.subscribe("a", cursor=history.cursor) as events:
            await client.publish("a", "4", end=True)
            assert [event.data async for event in events] == ["4"]
        assert (await client.history("a")).closed


async def test_parts_of_a_history(serve: Serve) -> None:
    server = await serve(retention_events=3)
    async with Client(server.url) as client:
        ids = [await client.publish("a", text) for text in "12345"]
        await client.publish("b", "x" * 100_000)

        async def texts(**options: object) -> list[str]:
            history = await client.history("a", **options)  # type: ignore[arg-type]
            return [event.data for event in history.events]

        assert await texts(last=2) == ["4", "5"]
        assert await texts(cursor=ids[3]) == ["5"]
        assert await texts(since="earliest", limit=1) == ["3"]
        assert await texts(before=ids[4], limit=1) == ["4"]
        both = await client.history("a", "b", "a", last=1)
        assert [event.topic for event in both.events] == ["a", "b"]
        lost = await client.history("a", cursor=ids[0])
        assert lost.gap is not None
        assert (lost.gap.topic, lost.gap.after, lost.gap.reason) == ("a", ids[0], "trimmed")
        async with client.subscribe("a", cursor=ids[0]) as events:
            assert lost.gap == await anext(events), "a stream has the same gap"


async def test_all_topics_page_by_page(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "TOPICS_PAGE", 2)
    async with Client(server.url) as client:
        assert [state async for state in client.topics()] == []
        ids = [await client.publish(topic, "x") for topic in ("a", "b", "c", "d", "e")]
        await client.publish("b", "y", end=True)
        states = [state async for state in client.topics()]
    assert [state.topic for state in states] == ["a", "b", "c", "d", "e"]
    first, second, *_ = states
    assert first == TopicState("a", 0, 1, first.bytes, ids[0], ids[0], closed=False)
    assert first.bytes > 0
    assert (second.events, second.closed) == (2, True)


async def test_delete_opens_a_topic_again(server: Server) -> None:
    async with Client(server.url) as client:
        await client.publish("a", "1", end=True)
        await client.delete("a")
        assert (await client.history("a")).events == []
        await client.publish("a", "2")


async def test_refusals(server: Server) -> None:
    async with Client(server.url) as client:
        with pytest.raises(ClientError) as caught:
            await client.history("a", limit=0)
        assert caught.value.code == "invalid-parameter"
        with pytest.raises(ClientError) as caught:
            await client.history("a b")
        assert caught.value.code == "invalid-topic"
        with pytest.raises(ValueError, match="at least one topic"):
            await client.history()
        with pytest.raises(PublishError) as refused:
            await client.delete("_stats")
        assert refused.value.code == "forbidden"


async def test_the_list_of_topics_needs_a_grant(serve: Serve) -> None:
    server = await serve(jwt_secrets=[SECRET])
    async with Client(server.url, token=HMAC.token(["**"], ["**"])) as client:
        with pytest.raises(ClientError) as caught:
            await anext(client.topics())
        assert caught.value.code == "forbidden"


def test_what_a_broker_sends() -> None:
    states, following = decode_topics(Response(200, None, STATE))
    assert (states, following) == ([TopicState("a", 1, 2, 3, "4-0", "5-0", closed=True)], None)
    history = decode_history(Response(200, None, HISTORY))
    assert history.events == [Event("a", "b", "1-0", "t")]
    data = '{"topic":"c","after":"2-0","reason":"lost"}'
    assert history.gap == Gap(data, "broker.gap", "2-0", "c", "2-0", "lost")


@pytest.mark.parametrize("following", [b'""', b'"a"', b'"b"'])
def test_a_page_of_topics_that_is_not_behind_the_one_before_is_refused(following: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_topics(Response(200, None, STATE.replace(b"null", following)), "b")
    assert caught.value.code == "unexpected"
    states, after = decode_topics(Response(200, None, STATE.replace(b"null", b'"ba"', 1)), "b")
    assert (len(states), after) == (1, "ba")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"topics": [{}], "next": null}',
        b'{"topics": 1, "next": ""}',
        STATE.replace(b"3", b"1e999"),
        *(STATE.replace(part, b"[]") for part in (b'"a"', b"1", b"2", b"3", b'"4-0"', b'"5-0"')),
    ],
)
def test_what_no_broker_sends_as_a_list(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_topics(Response(200, None, body))
    assert caught.value.code == "unexpected"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"events": [1]}',
        b'{"events": 1, "gap": null}',
        *(HISTORY.replace(part, b"5") for part in (b'"a"', b'"b"', b'"1-0"', b'"t"')),
        *(HISTORY.replace(part, b"5") for part in (b'"c"', b'"2-0"', b'"lost"')),
    ],
)
def test_what_no_broker_sends(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_history(Response(200, None, body))
    assert caught.value.code == "unexpected"
