"""The front and plain aiohttp give the same answers: status, headers (but Date, Connection, X-Request-ID and their order) and body."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from broker.settings import Settings
from tests.support.http import JSON, NDJSON, read_answer, request
from tests.support.local_broker import Clock, Server

ORIGIN = "Origin: https://page.example"
PREFLIGHT = "Access-Control-Request-Method: POST"
TEXT = "Content-Type: text/plain"
REQUESTS = {
    "health": request("GET", "/healthz"),
    "readiness": request("GET", "/readyz"),
    "the page": request("GET", "/", "Accept: text/html"),
    "a topic's page": request("GET", "/topics/a", "Accept: text/html"),
    "a file of the page": request("GET", "/page/page.js"),
    "no file of the page": request("GET", "/page/none.js"),
    "HEAD of the page": request("HEAD", "/"),
    "nothing": request("GET", "/nowhere"),
    "no topic": request("GET", "/topics/"),
    "an empty segment": request("GET", "//topics/a"),
    "a slash in a topic": request("GET", "/topics/a%2Fb"),
    "a percent sign": request("GET", "/topics/a%25b"),
    "not UTF-8": request("GET", "/topics/%ff"),
    "a method": request("PUT", "/topics/a", body=b"x"),
    "OPTIONS": request("OPTIONS", "/topics/a"),
    "a preflight": request("OPTIONS", "/topics/a", ORIGIN, PREFLIGHT),
    "a preflight of another page": request("OPTIONS", "/topics/a", "Origin: https://other", PREFLIGHT),
    "a preflight anywhere": request("OPTIONS", "/nowhere", ORIGIN, PREFLIGHT),
    "a publish": request("POST", "/topics/a", TEXT, body=b"x"),
    "a publish with a key": request("POST", "/topics/a", "Idempotency-Key: k", body=b"x"),
    "a publish of a page": request("POST", "/topics/a", ORIGIN, body=b"x"),
    "a publish of another page": request("POST", "/topics/a", "Origin: https://other", body=b"x"),
    "a bad topic": request("POST", "/topics/a..b", body=b"x"),
    "bad text": request("POST", "/topics/a", body=b"\xff"),
    "too large": request("POST", "/topics/a", body=b"x" * 2000),
    "compressed": request("POST", "/topics/a", "Content-Encoding: gzip", body=b"x"),
    "lines": request("POST", "/topics/a", NDJSON, body=b'{"data": 1}\n'),
    "a bad line": request("POST", "/topics/a", NDJSON, body=b'{"data": 1}\nx\n'),
    "to several": request("POST", "/topics?topic=a&topic=b", body=b"x"),
    "to none": request("POST", "/topics", body=b"x"),
    "a cancel": request("POST", "/topics/a/cancel", body=b""),
    "a topic's state": request("GET", "/topics/b", JSON),
    "all topics": request("GET", "/topics", JSON),
    "a bad start": request("GET", "/topics/a?since=never"),
    "HEAD of a stream": request("HEAD", "/topics/a"),
    "a closed topic": request("GET", "/topics/ended", "Last-Event-ID: 99999999999999-0"),
    "history": request("GET", "/topics/b/events"),
    "history for a page": request("GET", "/topics/b/events", ORIGIN),
    "HEAD of history": request("HEAD", "/topics/b/events?wait=50s"),
    "history that is known": request("GET", "/topics/b/events", "If-None-Match: *"),
    "history of several": request("GET", "/events?topic=b&topic=ended"),
    "a bad wait": request("GET", "/events?topic=b&wait=1h"),
    "a poll that ends": request("GET", "/topics/none/events?wait=1s"),
    "a deletion": request("DELETE", "/topics/gone"),
    "an operator's order": request("POST", "/admin/disconnect", body=b'{"topic": "none"}'),
    "a bad order": request("POST", "/admin/disconnect", body=b"[]"),
    "a foreign host": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "HTTP/1.0": b"POST /topics/a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
}
ID = re.compile(rb"[0-9]{13}-[0-9]+")


@pytest.fixture
async def servers(clock: Clock) -> AsyncIterator[list[Server]]:
    settings = Settings(cors_origins=("https://page.example",), max_event_bytes=1000)
    made = [Server(settings, clock, by_aiohttp=by_aiohttp) for by_aiohttp in (False, True)]
    for server in made:
        await server.start()
        await server.publish("b", "kept")
        await server.publish("ended", "last", "?end=true")
    yield made
    for server in made:
        await server.stop()


@pytest.mark.parametrize("sent", REQUESTS.values(), ids=REQUESTS.keys())
async def test_answers_are_the_same(servers: list[Server], sent: bytes) -> None:
    found = []
    for server in servers:
        reader, _ = await server.send(sent)
        answer = await read_answer(reader, (b"HTTP/1.1", b"HTTP/1.0"), has_body=not sent.startswith(b"HEAD"))
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name not in ("date", "connection", "x-request-id")
        }
        body = ID.sub(b"ID", answer.body).replace(str(server.port).encode(), b"PORT")
        found.append((answer.status, headers, body))
    assert found[0] == found[1]
