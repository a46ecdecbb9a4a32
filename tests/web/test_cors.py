"""What pages of other origins may do (Fetch standard §3.2)."""

from __future__ import annotations

import pytest

from broker.web.cors import AllowedOrigins
from tests.support.local_broker import Serve, Server

PAGE = "https://app.example"
STRANGER = "https://evil.example"

ALLOWED = {
    # (configured, Origin): (Access-Control-Allow-Origin, whether with credentials, Vary: Origin)
    (PAGE, PAGE): (PAGE, True, True),
    (PAGE, "HTTPS://APP.EXAMPLE"): ("HTTPS://APP.EXAMPLE", True, True),
    (PAGE, STRANGER): (None, False, True),
    (PAGE, "null"): (None, False, True),
    (PAGE, PAGE + ":444"): (None, False, True),
    (PAGE, "http://app.example"): (None, False, True),
    (PAGE, PAGE + ".evil.example"): (None, False, True),
    (PAGE, "https://sub.app.example"): (None, False, True),
    (PAGE, None): (None, False, True),
    ("*", PAGE): ("*", False, False),
    ("*", "null"): ("*", False, False),
    ("*", None): (None, False, False),
    (f"*,{PAGE}", PAGE): (PAGE, True, True),
    (f"*,{PAGE}", STRANGER): ("*", False, True),
    ("", PAGE): (None, False, False),
    ("https://app.example:443", PAGE): (PAGE, True, True),
    ("https://*.app.example", "https://a.app.example"): ("https://a.app.example", True, True),
    ("https://*.app.example", "https://a.b-c.app.example"): ("https://a.b-c.app.example", True, True),
    ("https://*.app.example", PAGE): (None, False, True),
    ("https://*.app.example", "http://a.app.example"): (None, False, True),
    ("https://*.app.example", "https://evilapp.example"): (None, False, True),
    ("https://*.app.example", "https://a.app.example:444"): (None, False, True),
    ("https://*.app.example", "https://evil.example/.app.example"): (None, False, True),
    ("https://*.app.example", "https://a.app.example.evil.example"): (None, False, True),
    ("https://*.app.example:444", "https://a.app.example:444"): ("https://a.app.example:444", True, True),
    ("http://*.localhost:3000", "http://a.localhost:3000"): ("http://a.localhost:3000", True, True),
    ("*,https://*.app.example", STRANGER): ("*", False, True),
    ("capacitor://localhost", "capacitor://localhost"): ("capacitor://localhost", True, True),
    ("capacitor://localhost", "ionic://localhost"): (None, False, True),
    ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"): (
        "chrome-extension://abcdefgh",
        True,
        True,
    ),
    ("https://APP.example, http://[::1]:8080", "http://[::1]:8080"): ("http://[::1]:8080", True, True),
}


@pytest.mark.parametrize(("configured", "origin"), ALLOWED, ids=str)
async def test_every_answer_names_the_origins_that_may_read_it(
    serve: Serve, configured: str, origin: str | None
) -> None:
    server = await serve(cors_origins=configured)
    sent = {} if origin is None else {"origin": origin}
    expected, credentials, varies = ALLOWED[configured, origin]
    await server.publish("news", "x", origin="http://127.0.0.1:" + str(server.port))
    stream = await server.subscribe("/topics/news?since=earliest", **sent)
    answers = [
        stream.headers,
        (await server.request("HEAD", "/topics/news", accept="text/event-stream", **sent)).headers,
        (await server.request("GET", "/topics/news", accept="application/json", **sent)).headers,
        (await server.request("GET", "/topics", accept="application/json", **sent)).headers,
        (await server.request("POST", "/topics/news", b"x", **sent)).headers,  # 201 or 403
        (await server.request("POST", "/topics/news", b"\xff", **sent)).headers,
        (await server.request("PUT", "/topics/news", b"x", **sent)).headers,
        (await server.request("GET", "/nowhere", **sent)).headers,
        (await server.request("GET", "/healthz", expect="miracles", **sent)).headers,
    ]
    for headers in answers:
        assert headers.get("access-control-allow-origin") == expected
        assert (headers.get("access-control-allow-credentials") == "true") is credentials
        assert ("Origin" in headers.get("vary", "").split(", ")) is varies
        assert ("Idempotency-Replayed" in headers.get("access-control-expose-headers", "")) is bool(expected)
    assert stream.headers["vary"].split(", ")[0] == "Accept"


async def test_refusal_of_a_stream_can_be_read_too(serve: Serve) -> None:
    server = await serve(cors_origins=PAGE, max_connections=1)
    await server.subscribe("/topics/news")
    refused = await server.subscribe("/topics/news", origin=PAGE)
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (200, PAGE)
    assert (await refused.end()).startswith(b"retry: ")


@pytest.mark.parametrize("target", ["/topics/news", "/topics", "/topics/news?x=1", "/nowhere"])
async def test_preflight_allows_what_the_clients_send(serve: Serve, target: str) -> None:
    server = await serve(cors_origins=PAGE)
    asked = {
        "origin": PAGE,
        "access_control_request_method": "POST",
        "access_control_request_headers": "authorization,content-type,idempotency-key,last-event-id",
    }
    answer = await server.request("OPTIONS", target, **asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert {"GET", "HEAD", "POST", "DELETE"} == set(
        answer.headers["access-control-allow-methods"].split(", ")
    )
    allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(", ")}
    assert set(asked["access_control_request_headers"].split(",")) <= allowed
    assert "*" not in allowed
    assert int(answer.headers["access-control-max-age"]) > 0
    assert answer.headers["vary"] == "Origin"


async def test_preflight_allows_what_tracing_libraries_add_and_the_setting(serve: Serve) -> None:
    server = await serve(cors_origins=PAGE, cors_headers="X-Tenant, X-B3-TraceId")
    answer = await server.request(
        "OPTIONS", "/topics/news", origin=PAGE, access_control_request_method="POST"
    )
    allowed = set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert {"sentry-trace", "baggage", "traceparent", "tracestate", "x-requested-with"} <= allowed
    assert {"x-tenant", "x-b3-traceid", "authorization"} <= allowed


@pytest.mark.parametrize("configured", ["", PAGE])
async def test_preflight_of_another_origin_is_refused(serve: Serve, configured: str) -> None:
    server = await serve(cors_origins=configured)
    answer = await server.request(
        "OPTIONS", "/topics/news", origin=STRANGER, access_control_request_method="DELETE"
    )
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")
    assert "--cors-origins" in str(answer.json()["detail"])
    assert not any(name.startswith("access-control-") for name in answer.headers)


async def test_options_without_a_preflight_is_405(server: Server) -> None:
    answer = await server.request("OPTIONS", "/topics/news", origin=PAGE)
    assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")


async def test_preflight_doesnt_open_a_rebound_name(serve: Serve) -> None:
    server = await serve(cors_origins="*")
    answer = await server.request(
        "OPTIONS", "/topics/news", origin=STRANGER, host="evil.example", access_control_request_method="GET"
    )
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")


async def test_star_lets_every_page_publish_and_none_with_credentials(serve: Serve) -> None:
    server = await serve(cors_origins="*")
    for origin in (PAGE, "null"):
        assert (await server.request("POST", "/topics/news", b"x", origin=origin)).status == 201
    assert (await server.request("POST", "/topics/news", b"x", sec_fetch_site="cross-site")).status == 403
    assert not AllowedOrigins(["*"]).names(PAGE)
