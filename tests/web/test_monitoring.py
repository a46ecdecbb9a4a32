"""What an operator asks, and what is refused before any handler (contract §5, §6)."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.support.http import read_head
from tests.support.local_broker import Serve, Server
from tests.support.waiting import until


async def test_health_and_readiness(server: Server) -> None:
    assert (await server.request("GET", "/healthz")).status == 200
    answer = await server.request("GET", "/readyz")
    assert (answer.status, answer.json()["status"]) == (200, "ready")


async def test_readiness_fails_while_draining_and_browsers_are_sent_elsewhere(serve: Serve) -> None:
    server = await serve(drain_seconds=30, drain_notice_seconds=30)
    draining = asyncio.ensure_future(server.node.streams.drain())
    await until(lambda: server.node.streams.is_draining, "draining")
    answer = await server.request("GET", "/readyz")
    assert (answer.status, answer.json()["checks"]["accepting"]) == (503, "draining")
    browser = await server.subscribe("/topics/news")
    assert re.fullmatch(rb"retry: \d+\n", await browser.end())
    other = await server.request("GET", "/topics/news", accept="*/*")
    assert (other.status, other.json()["code"]) == (503, "unavailable")
    kept = await server.request("POST", "/topics/news", b"x", connection="keep-alive")
    assert (kept.status, kept.headers.get("connection")) == (201, "close"), "the next request would be lost"
    draining.cancel()


async def test_metrics(server: Server) -> None:
    first = await server.subscribe("/topics/news")
    opening = await first.event(1)
    await server.publish("news", "1")
    await first.data(1)
    await first.close()
    resumed = await server.subscribe("/topics/news", last_event_id=opening.id)
    await resumed.data(1)
    lost = await server.subscribe("/topics/news", last_event_id="1-0")
    await lost.data(1)
    await until(lambda: server.subscribers_of("news") == 2, "the first one has left")
    answer = await server.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    for line in (
        'broker_connects_total{kind="first"} 1.0',
        'broker_connects_total{kind="resume"} 2.0',
        'broker_closes_total{reason="client"} 1.0',
        'broker_gaps_total{reason="lost"} 1.0',
        "broker_connection_age_seconds_count 1.0",
        "broker_published_events_total 1.0",
        "broker_delivered_events_total 3.0",
        "broker_subscribers 2.0",
        "broker_lagging_subscribers 0.0",
        "broker_topics 1.0",
    ):
        assert line + "\n" in text
    assert "news" not in text  # a topic is never a label


@pytest.mark.parametrize("path", ["/", "/topics/news"])
async def test_page(server: Server, path: str) -> None:
    answer = await server.request("GET", path, accept="text/html")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = answer.body.decode()
    assert not re.search(
        r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:|https?://",
        page.replace("http://www.w3.org", ""),
    )
    for asset in re.findall(r'(?:src|href)="(/page/[^"]+)"', page):
        assert (await server.request("GET", asset)).status == 200
    assert (await server.request("GET", "/page/other.js")).status == 404
    assert (await server.request("GET", "/page/..%2F__init__.py")).status == 404


async def test_page_loads_all_its_modules_at_once(server: Server) -> None:
    """Named in the page, they don't wait for each other to be read."""
    page = (await server.request("GET", "/", accept="text/html")).body.decode()
    named = set(re.findall(r'"/page/(\w+\.js)"', page))
    for module in named:
        answer = await server.request("GET", f"/page/{module}")
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert set(re.findall(r'^import .* from "\./(.+)";$', answer.body.decode(), re.MULTILINE)) <= named


@pytest.mark.parametrize("target", ["/nowhere", "/topics/a/b", "/topics/", "/topics/a%2Fb/c"])
async def test_no_such_route(server: Server, target: str) -> None:
    answer = await server.request("GET", target)
    assert (answer.status, answer.json()["code"]) == (404, "not-found")
    assert answer.headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [("PUT", "/topics/a", "DELETE, GET, HEAD, POST"), ("POST", "/healthz", "GET, HEAD")],
)
async def test_no_such_method(server: Server, method: str, target: str, allowed: str) -> None:
    answer = await server.request(method, target, b"x")
    assert (answer.status, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == allowed
    assert answer.headers["connection"] == "close"


async def test_problem_has_its_members(server: Server) -> None:
    answer = await server.request("POST", "/topics/a..b", b"x")
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"title", "status", "detail", "code"}


async def test_what_is_no_http(server: Server) -> None:
    for request in (
        b"\x16\x03\x01\x02\x00 hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
    ):
        reader, _writer = await server.send(request)
        status, headers = await read_head(reader, versions=(b"HTTP/1.0", b"HTTP/1.1"))
        assert (status, headers["connection"]) == (400, "close")
        assert headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"origin": "http://127.0.0.1:{port}"}, 201),
        ({"origin": "HTTP://127.0.0.1:{port}"}, 201),
        ({"origin": "https://allowed.example"}, 201),
        ({"origin": "https://allowed.example", "sec_fetch_site": "cross-site"}, 201),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": "http://a]b"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 201),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
    ],
    ids=str,
)
async def test_origin(serve: Serve, headers: dict[str, str], status: int) -> None:
    server = await serve(cors_origins="https://allowed.example")
    filled = {name: value.format(port=server.port) for name, value in headers.items()}
    answer = await server.request("POST", "/topics/news", b"x", **filled)
    assert answer.status == status
    if status == 403:
        assert answer.json()["code"] == "forbidden"
        assert (await server.request("DELETE", "/topics/news", **filled)).status == 403


@pytest.mark.parametrize("target", ["/healthz", "/nowhere", "/topics/news"])
async def test_unknown_expectation(server: Server, target: str) -> None:
    answer = await server.request("GET", target, expect="miracles")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "target", "status"), [("DELETE", "/topics/news", 204), ("GET", "/healthz", 200)]
)
async def test_an_answer_before_the_body_was_read_closes(
    server: Server, method: str, target: str, status: int
) -> None:
    reader, _ = await server.send(
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".encode()
    )
    answered, headers = await read_head(reader)
    assert (answered, headers["connection"]) == (status, "close")
