"""Operators disconnect streams and revoke tokens."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import until

BAD_BODIES = {
    "empty": b"",
    "no JSON": b"topic=news",
    "no UTF-8": b"\xff\xfe\xfd",
    "no object": b"[]",
    "nothing named": b"{}",
    "both": b'{"sub": "ann", "topic": "news", "jti": "1"}',
    "unknown member": b'{"sub": "ann", "force": true}',
    "no string": b'{"sub": true}',
    "a fraction": b'{"sub": 7.5}',
    "empty string": b'{"sub": ""}',
    "long string": json.dumps({"sub": "x" * 1001}).encode(),
    "deep": b"[" * 5000,
}


@pytest.mark.parametrize("path", ["disconnect", "revoke"])
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_orders(server: Server, path: str, name: str) -> None:
    stream = await server.subscribe("/topics/news")
    answer = await server.request("POST", f"/admin/{path}", BAD_BODIES[name])
    assert (answer.status, answer.json()["code"]) == (400, "invalid-body")
    await server.publish("news", "still there")
    assert await stream.data(1) == ["still there"]


@pytest.mark.parametrize(
    "expires", [b'"soon"', b"true", b"[]", b"Infinity", b"NaN", b"-1", b"1" + b"0" * 400]
)
async def test_bad_expiry(server: Server, expires: bytes) -> None:
    answer = await server.request("POST", "/admin/revoke", b'{"jti": "7", "exp": %b}' % expires)
    assert (answer.status, answer.json()["code"]) == (400, "invalid-body")


async def test_bad_topic(server: Server) -> None:
    answer = await server.request("POST", "/admin/disconnect", b'{"topic": "a..b"}')
    assert (answer.status, answer.json()["code"]) == (400, "invalid-topic")


async def test_a_long_order_is_too_large(server: Server) -> None:
    answer = await server.request("POST", "/admin/revoke", b'{"jti": "7"}' + b" " * 9000)
    assert (answer.status, answer.json()["code"]) == (413, "too-large")


async def test_a_topic_is_disconnected_and_others_are_not(server: Server) -> None:
    concerned = [await server.subscribe(target) for target in ("/topics/a", "/topics?topic=b&topic=a")]
    other = await server.subscribe("/topics/b")
    await server.publish("a", "before")
    answer = await server.request("POST", "/admin/disconnect", b'{"topic": "a"}')
    assert (answer.status, answer.body) == (202, b"")
    for stream in concerned:
        ended = await stream.end()
        assert b"data: before\n" in ended
        assert re.search(rb"\n\nretry: \d+\n$", ended), "and it may come back"
    await server.publish("b", "after")
    assert await other.data(1) == ["after"]
    await until(lambda: len(server.node.streams.hub) == 1, "the two are gone")
    assert b'broker_closes_total{reason="disconnected"} 2.0' in server.node.metrics.text()


async def test_a_disconnected_client_misses_nothing(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    opening = await stream.event(1)
    await server.request("POST", "/admin/disconnect", b'{"topic": "a"}')
    await stream.end()
    await server.publish("a", "meanwhile")
    again = await server.subscribe("/topics/a", last_event_id=str(opening.id))
    assert await again.data(1) == ["meanwhile"]


async def test_callers_without_a_token_are_not_revoked(server: Server) -> None:
    stream = await server.subscribe("/topics/a")
    for order in (b'{"sub": "ann"}', b'{"jti": "7", "exp": 1e11}'):
        assert (await server.request("POST", "/admin/revoke", order)).status == 202
    await server.publish("a", "still there")
    assert await stream.data(1) == ["still there"]


async def test_other_methods(server: Server) -> None:
    for path in ("disconnect", "revoke"):
        answer = await server.request("GET", f"/admin/{path}")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_an_operator_sees_a_request_as_it_arrived_but_no_secret(serve: Serve) -> None:
    server = await serve(jwt_secrets=(SECRET,), trusted_proxies=("127.0.0.1",), max_connections_per_address=9)
    token = HMAC.token(admin=True)
    answer = await server.request(
        "GET",
        "/admin/request?access_token=other",
        authorization=f"Bearer {token}",
        cookie="session=secret",
        x_forwarded_for="203.0.113.7, 127.0.0.1",
        via="1.1 edge",
    )
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    shown = answer.json()
    assert shown == {
        "version": "1.1",
        "peer": "127.0.0.1",
        "address": "203.0.113.7",
        "headers": {
            "host": shown["headers"]["host"],
            "x-forwarded-for": "203.0.113.7, 127.0.0.1",
            "via": "1.1 edge",
        },
    }


async def test_without_a_limit_by_address_none_is_shown(server: Server) -> None:
    shown = (await server.request("GET", "/admin/request", x_forwarded_for="203.0.113.7")).json()
    assert shown["address"] is None
    assert shown["headers"]["x-forwarded-for"] == "203.0.113.7"
