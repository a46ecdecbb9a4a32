"""Every right on every route, with a token sent in every way and signed by every kind of key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from broker.web import identity
from tests.support.http import Answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tokens import ASYMMETRIC, HMAC, OTHER_SECRET, SECRET, Signer, sign_any, signer
from tests.support.work import bytecodes

KEYS = json.dumps([OTHER_SECRET, SECRET])
"""Two, as while one replaces the other."""


@dataclass(frozen=True)
class Route:
    """A request, the right that it needs, and the status that it then gets."""

    method: str
    target: str
    right: str
    status: int
    body: bytes = b""
    accept: str = "application/json"
    content_type: str = "text/plain"


ROUTES = {
    "publish": Route("POST", "/topics/orders.1", "publish", 201, b"x"),
    "publish to several": Route("POST", "/topics?topic=orders.1&topic=orders.2", "publish", 201, b"x"),
    "publish lines": Route(
        "POST", "/topics/orders.1", "publish", 200, b'{"data": 1}\n', content_type="application/x-ndjson"
    ),
    "publish lines to several": Route(
        "POST",
        "/topics",
        "publish",
        200,
        b'{"topic": "orders.1", "data": 1}\n',
        content_type="application/x-ndjson",
    ),
    "publish a stream": Route(
        "POST", "/topics/orders.1", "publish", 200, b"data: 1\n\n", content_type="text/event-stream"
    ),
    "end": Route("POST", "/topics/orders.1?end=true", "publish", 201),
    "cancel": Route("POST", "/topics/orders.1/cancel", "publish", 202),
    "subscribe": Route("GET", "/topics/orders.1", "subscribe", 200, accept="text/event-stream"),
    "subscribe to several": Route(
        "GET", "/topics?topic=orders.1&topic=orders.2", "subscribe", 200, accept="text/event-stream"
    ),
    "subscribe by any client": Route("GET", "/topics/orders.1", "subscribe", 200, accept="*/*"),
    "head": Route("HEAD", "/topics/orders.1", "subscribe", 200, accept="text/event-stream"),
    "history": Route("GET", "/topics/orders.1/events", "subscribe", 200),
    "history of several": Route("GET", "/events?topic=orders.1&topic=orders.2", "subscribe", 200),
    "look": Route("GET", "/topics/orders.1", "subscribe", 200),
    "list": Route("GET", "/topics", "admin", 200),
    "delete": Route("DELETE", "/topics/orders.1", "admin", 204),
    "metrics": Route("GET", "/metrics", "admin", 200),
    "request": Route("GET", "/admin/request", "admin", 200),
    "disconnect": Route("POST", "/admin/disconnect", "admin", 202, b'{"topic": "orders.1"}'),
    "revoke": Route("POST", "/admin/revoke", "admin", 202, b'{"jti": "another"}'),
    "health": Route("GET", "/healthz", "", 200),
    "readiness": Route("GET", "/readyz", "", 200),
    "page": Route("GET", "/", "", 200, accept="text/html"),
    "page of a topic": Route("GET", "/topics/orders.1", "", 200, accept="text/html"),
    "asset": Route("GET", "/page/page.js", "", 200),
}

RIGHTS: dict[str, dict[str, Any]] = {
    "publish": {"publish": ["orders.*"]},
    "subscribe": {"subscribe": ["orders.*"]},
    "admin": {"admin": True},
    "nothing": {},
    "all but publish": {"publish": ["order.*", "orders"], "subscribe": ["**"], "admin": True},
    "all but subscribe": {"publish": ["**"], "subscribe": ["orders.*.*", "_x.**"], "admin": True},
    "all but admin": {"publish": ["**"], "subscribe": ["**"], "admin": False},
}


def has(rights: str, needed: str) -> bool:
    if not needed or needed == rights:
        return True
    return rights.startswith("all but") and rights != f"all but {needed}"


def bearer(server: Server, token: str) -> tuple[str, dict[str, str]]:
    return "", {"authorization": f"Bearer {token}"}


def cookie(server: Server, token: str) -> tuple[str, dict[str, str]]:
    return "", {"cookie": f"a=b; broker_token={token}; c=d", "origin": server.url}


def query(server: Server, token: str) -> tuple[str, dict[str, str]]:
    return f"access_token={token}", {}


Carrier = Callable[[Server, str], tuple[str, dict[str, str]]]
CARRIERS: list[Carrier] = [bearer, cookie, query]


async def ask(server: Server, route: Route, token: str | None, carrier: Carrier = bearer) -> Answer:
    more, headers = ("", {}) if token is None else carrier(server, token)
    target = f"{route.target}{'&' if '?' in route.target else '?'}{more}" if more else route.target
    headers |= {"accept": route.accept, "content_type": route.content_type}
    if route.method == "GET" and route.accept in ("text/event-stream", "*/*"):
        stream = await server.subscribe(target, connection="close", **headers)
        body = b"" if stream.status == 200 else (await stream.end())
        return Answer(stream.status, stream.headers, body)
    return await server.request(route.method, target, route.body, **headers)


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_each_right_on_each_route_by_each_carrier(serve: Serve, name: str, carrier: Carrier) -> None:
    server, route = await serve(jwt_secrets=KEYS), ROUTES[name]
    for rights, grant in RIGHTS.items():
        answer = await ask(server, route, HMAC.token(**grant), carrier)
        if has(rights, route.right):
            assert answer.status == route.status, rights
            continue
        assert answer.status == 403, rights
        assert "www-authenticate" not in answer.headers
        if route.method != "HEAD":
            problem = answer.json()
            assert problem["code"] == "forbidden"
            if route.right != "admin":
                assert problem["topics"] == [
                    topic for topic in ("orders.1", "orders.2") if topic in _asked(route)
                ]


def _asked(route: Route) -> str:
    return route.target + route.body.decode()


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("anonymous", ["", "publish", "subscribe", "publish,subscribe"])
async def test_the_anonymous_grant(serve: Serve, name: str, anonymous: str) -> None:
    server, route = await serve(jwt_secrets=KEYS, anonymous=anonymous), ROUTES[name]
    answer = await ask(server, route, None)
    if not route.right or route.right in anonymous.split(","):
        assert answer.status == route.status
        return
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    if route.method != "HEAD":
        assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.right])
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_bad_token_is_401_even_if_none_is_needed(serve: Serve, name: str, carrier: Carrier) -> None:
    server = await serve(jwt_secrets=KEYS, anonymous="publish,subscribe")
    for token in ("garbage", Signer("HS256", "x" * 32).token(["**"], ["**"], admin=True), ""):
        answer = await ask(server, ROUTES[name], token, carrier)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if not route.right])
async def test_routes_without_access_control_ignore_a_bad_token(serve: Serve, name: str) -> None:
    server = await serve(jwt_secrets=KEYS)
    assert (await ask(server, ROUTES[name], "garbage", cookie)).status == 200


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", *ASYMMETRIC])
async def test_each_kind_of_key(serve: Serve, tmp_path: Path, algorithm: str) -> None:
    key = signer(algorithm)
    if algorithm.startswith("HS"):
        server = await serve(jwt_secrets=KEYS)
    else:
        other = tmp_path / "other.pem"
        other.write_bytes(signer("ES256" if algorithm != "ES256" else "EdDSA").public_pem)
        (tmp_path / "key.pem").write_bytes(key.public_pem)
        server = await serve(jwt_public_keys=f"{other}, {tmp_path / 'key.pem'}")
    assert (await ask(server, ROUTES["publish"], key.token(["orders.*"]))).status == 201
    assert (await ask(server, ROUTES["publish"], key.token(["x"]))).status == 403
    assert (await ask(server, ROUTES["publish"], key.token(["orders.*"])[:-4] + "AAAA")).status == 401


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"aud": "events", "iss": "https://login.example"}, 201),
        ({"aud": "else", "iss": "https://login.example"}, 401),
        ({"iss": "https://login.example"}, 401),
        ({"aud": "events", "iss": "https://evil.example"}, 401),
        ({"aud": "events"}, 401),
    ],
    ids=str,
)
async def test_audience_and_issuer(serve: Serve, claims: dict[str, str], status: int) -> None:
    server = await serve(jwt_secrets=KEYS, jwt_audience="events", jwt_issuer="https://login.example")
    assert (
        await ask(server, ROUTES["publish"], HMAC.sign({**claims, "broker": {"publish": ["**"]}}))
    ).status == status


async def test_times_are_those_of_the_brokers_clock(serve: Serve, clock: Clock) -> None:
    server = await serve(jwt_secrets=KEYS)
    token = HMAC.token(["**"], nbf=clock.now + 60, exp=clock.now + 120)
    statuses = []
    for _ in range(3):
        statuses.append((await ask(server, ROUTES["publish"], token)).status)
        clock.now += 60
    assert statuses == [401, 201, 401]


# One source


@pytest.mark.parametrize(
    ("header", "cookie", "query", "status"),
    [
        ("Bearer GOOD", None, None, 200),
        ("bearer  GOOD", None, None, 200),
        ("Bearer GOOD", "bad", "bad", 200),
        ("Bearer bad", "GOOD", "GOOD", 401),
        ("Bearer", "GOOD", None, 401),
        ("Basic dXNlcjpwYXNz", "GOOD", "bad", 200),
        (None, "GOOD", "bad", 200),
        (None, "bad", "GOOD", 401),
        (None, "", "GOOD", 401),
        (None, None, "GOOD", 200),
        (None, None, "", 401),
        ("Basic dXNlcjpwYXNz", None, None, 401),
    ],
    ids=str,
)
async def test_the_first_token_counts(
    serve: Serve, header: str | None, cookie: str | None, query: str | None, status: int
) -> None:
    server = await serve(jwt_secrets=KEYS)
    good = HMAC.token(subscribe=["**"])
    headers = {"accept": "application/json"}
    if header is not None:
        headers["authorization"] = header.replace("GOOD", good)
    if cookie is not None:
        headers["cookie"] = f"broker_token={cookie.replace('GOOD', good)}"
    target = "/topics/a" if query is None else f"/topics/a?access_token={query.replace('GOOD', good)}"
    assert (await server.request("GET", target, **headers)).status == status


COOKIE_ORIGINS = [
    ({"origin": "{own}"}, "", True),
    ({"origin": "https://app.example"}, "https://app.example", True),
    ({"origin": "https://app.example"}, "*", False),
    ({"origin": "https://app.example"}, "", False),
    ({"origin": "null"}, "*", False),
    ({}, "https://app.example", False),
    ({"sec_fetch_site": "same-origin"}, "", False),
    ({"sec_fetch_site": "none"}, "*", False),
]


@pytest.mark.parametrize(("headers", "allowed", "good"), COOKIE_ORIGINS, ids=str)
async def test_a_cookie_changes_nothing_without_an_origin_that_is_named(
    serve: Serve, headers: dict[str, str], allowed: str, good: bool
) -> None:
    server = await serve(jwt_secrets=KEYS, cors_origins=allowed)
    token = HMAC.token(["**"], ["**"], admin=True)
    sent = {name: value.format(own=server.url) for name, value in headers.items()}
    sent["cookie"] = f"broker_token={token}"
    for route in ("publish", "publish lines", "delete", "disconnect", "revoke"):
        asked = ROUTES[route]
        answer = await server.request(
            asked.method, asked.target, asked.body, **sent, content_type=asked.content_type
        )
        assert answer.status == (asked.status if good else 403)
    assert (await server.request("GET", "/topics", accept="application/json", **sent)).status == 200


# What a part of the rights doesn't show


async def test_a_subscriber_sees_nothing_of_other_topics(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS, retention_events=2)
    everything = HMAC.token(["**"], ["**"], admin=True)
    mine = {"authorization": f"Bearer {HMAC.token(subscribe=['orders.*'])}"}
    hidden = ("orders.1.secret", "other", "orders", "order.1", "_stats")

    async def publish(topic: str, data: str) -> None:
        await server.publish(topic, data, authorization=f"Bearer {everything}")

    for topic in (*hidden[:-1], "orders.1"):
        for number in range(4):
            await publish(topic, f"{topic} {number}")
    granted = [
        await server.subscribe("/topics/orders.1", **mine),
        await server.subscribe("/topics/orders.1?since=earliest", **mine),
        await server.subscribe("/topics/orders.1?envelope=json&last=9", **mine),
        await server.subscribe("/topics?topic=orders.1&topic=orders.2", last_event_id="1-0", **mine),
    ]
    for topic in hidden:
        for target in (
            f"/topics/{topic}",
            f"/topics/{topic}?since=earliest",
            f"/topics/{topic}?envelope=json",
            f"/topics?topic={topic}",
            f"/topics?topic=orders.1&topic={topic}",
        ):
            refused = await server.subscribe(target, last_event_id="1-0", connection="close", **mine)
            problem = json.loads(await refused.end())
            assert (refused.status, problem["topics"]) == (403, [topic])
        info = await server.request("GET", f"/topics/{topic}", accept="application/json", **mine)
        head = await server.request("HEAD", f"/topics/{topic}", accept="text/event-stream", **mine)
        assert (info.status, head.status) == (403, 403)
    for target in ("/topics", "/topics?after=a&limit=5"):
        assert (await server.request("GET", target, accept="application/json", **mine)).status == 403
    for topic in (*hidden[:-1], "orders.1"):
        await publish(topic, "last of " + topic)
    for stream in granted:
        while b"last of orders.1" not in stream.body:
            assert await stream.more()
        for topic in hidden:
            assert topic.encode() + b" " not in stream.body
            assert b'"' + topic.encode() + b'"' not in stream.body
            assert b"last of " + topic.encode() + b"\n" not in stream.body


async def test_a_line_for_a_topic_without_a_grant_ends_the_body(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    lines = [{"topic": topic, "data": 1} for topic in ("orders.1", "orders.2", "other", "orders.3")]
    answer = await server.request(
        "POST",
        "/topics",
        b"".join(json.dumps(line).encode() + b"\n" for line in lines),
        authorization=f"Bearer {HMAC.token(['orders.*'])}",
        content_type="application/x-ndjson",
    )
    problem = answer.json()
    assert (answer.status, problem["code"]) == (403, "forbidden")
    assert (problem["line"], problem["published"], problem["topics"]) == (3, 2, ["other"])


async def test_several_topics_are_published_to_all_or_none(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    token = f"Bearer {HMAC.token(['orders.*'], ['**'])}"
    answer = await server.request(
        "POST", "/topics?topic=orders.1&topic=other&topic=more", b"x", authorization=token
    )
    assert (answer.status, answer.json()["topics"]) == (403, ["other", "more"])
    info = await server.request("GET", "/topics/orders.1", accept="application/json", authorization=token)
    assert info.json()["events"] == 0


async def test_names_of_the_brokers_own_are_for_patterns_that_name_them(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    for pattern, status in (("**", 403), ("*", 403), ("_stats", 200), ("_stats.**", 403), ("_other", 403)):
        token = HMAC.token(subscribe=[pattern])
        stream = await server.subscribe("/topics/_stats", authorization=f"Bearer {token}")
        assert stream.status == status, pattern


# Open, or not


async def test_a_loopback_address_without_keys_is_open(server: Server) -> None:
    for route in ROUTES.values():
        assert (await ask(server, route, None)).status == route.status
        assert (await ask(server, route, "whatever")).status == route.status


async def test_anonymous_grants_only_what_the_setting_names(serve: Serve) -> None:
    server = await serve(anonymous="subscribe")
    for route in ROUTES.values():
        expected = route.status if route.right in ("", "subscribe") else 401
        assert (await ask(server, route, None)).status == expected
    assert (await server.subscribe("/topics/_stats")).status == 401


async def test_a_host_of_another_name_is_free_where_tokens_guard(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    assert (await server.request("GET", "/healthz", host="events.example")).status == 200


# What an issuer gets wrong


async def test_a_numeric_subject_is_a_subject_and_can_be_revoked(serve: Serve, clock: Clock) -> None:
    server = await serve(jwt_secrets=KEYS)
    rights = {"subscribe": ["**"]}
    sent = {"authorization": f"Bearer {sign_any({'sub': 7, 'iat': int(clock.now) - 9, 'broker': rights})}"}
    streams = [await server.subscribe("/topics/a", **sent) for _ in range(2)]
    assert {stream.status for stream in streams} == {200}
    admin = {"authorization": f"Bearer {HMAC.token(admin=True)}"}
    assert (await server.request("POST", "/admin/revoke", b'{"sub": 7}', **admin)).status == 202
    for stream in streams:
        assert b'{"reason":"revoked"}' in await stream.end()
    answer = await server.request("GET", "/topics/a", accept="application/json", **sent)
    assert (answer.status, answer.json()["detail"]) == (401, "This token was revoked; get a new one.")


async def test_revoking_a_subject_revokes_its_tokens_from_the_future(serve: Serve, clock: Clock) -> None:
    server = await serve(jwt_secrets=KEYS)
    future = HMAC.token(subscribe=["**"], sub="ann", iat=int(clock.now) + 3600)
    sent = {"authorization": f"Bearer {future}"}
    stream = await server.subscribe("/topics/a", **sent)
    assert stream.status == 200
    admin = {"authorization": f"Bearer {HMAC.token(admin=True)}"}
    assert (await server.request("POST", "/admin/revoke", b'{"sub": "ann"}', **admin)).status == 202
    assert b'{"reason":"revoked"}' in await stream.end()
    later = {"authorization": f"Bearer {HMAC.token(subscribe=['**'], sub='ann', iat=int(clock.now) + 5)}"}
    for seconds in (0, 3601):
        clock.now += seconds
        for headers, status in ((sent, 401), (later, 200)):
            answer = await server.request("GET", "/topics/a", accept="application/json", **headers)
            assert answer.status == status


async def test_a_bad_claim_is_named_in_the_answer_and_once_a_minute_in_the_log(
    serve: Serve, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(jwt_secrets=KEYS)

    async def refused(token: str) -> str:
        answer = await server.request("POST", "/topics/a", b"x", authorization=f"Bearer {token}")
        assert answer.status == 401
        return str(answer.json()["detail"])

    for _ in range(3):
        assert "'sub' must be a string" in await refused(sign_any({"sub": ["hush"]}))
    assert "'exp' must be a number" in await refused(sign_any({"exp": "hush"}))
    await refused(Signer("HS256", "x" * 32).sign({"sub": "a stranger's"}))
    await refused("garbage")
    logged = [record.getMessage() for record in caplog.records if "good signature" in record.getMessage()]
    assert len(logged) == 2
    assert "'sub' must be a string" in logged[0]
    assert "hush" not in caplog.text, "a token isn't quoted"
    clock.now += 61
    await refused(sign_any({"sub": ["hush"]}))
    assert caplog.text.count("good signature: The token's 'sub'") == 2


@pytest.mark.parametrize(
    ("header", "tokens"),
    [
        ("broker_token=t", ["t"]),
        (" broker_token = t ;a=b", ["t"]),
        ('a=b;broker_token="t"', ["t"]),
        ("a=b; broker_token=", [""]),
        ("broker_token=a=b", ["a=b"]),
        ("broker_token", []),
        ("broker_token;=t", []),
        ("a=broker_token=t; xbroker_token=t; broker_tokens=t; Broker_Token=t", []),
        ("a=x broker_token=t", []),
        ("broker_token=1; broker_token=2", ["1", "2"]),
    ],
)
def test_tokens_in_a_cookie_header(header: str, tokens: list[str]) -> None:
    assert list(identity._cookies(CIMultiDict(Cookie=header))) == tokens


@pytest.mark.parametrize("cookie", ["a=;", "broker_token;", "broker_token=;", "=;", "; "])
def test_the_work_for_many_cookies_is_bounded(cookie: str) -> None:
    """8 KB of other cookies took 18.5 ms."""
    headers = CIMultiDict(Cookie=cookie * (16_000 // len(cookie)))
    assert bytecodes(lambda: identity._cookies(headers)) < 1000
