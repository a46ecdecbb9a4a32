"""The headers of every answer."""

from __future__ import annotations

import pytest

from broker.web import headers
from broker.web.cors import AllowedOrigins
from tests.support.http import read_head
from tests.support.local_broker import Server

ANSWERS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "healthz": ("GET", "/healthz", {}, 200),
    "readyz": ("GET", "/readyz", {}, 200),
    "metrics": ("GET", "/metrics", {}, 200),
    "page": ("GET", "/", {}, 200),
    "page of a topic": ("GET", "/topics/news", {"accept": "text/html"}, 200),
    "asset": ("GET", "/page/page.js", {}, 200),
    "no asset": ("GET", "/page/none.js", {}, 404),
    "info": ("GET", "/topics/news", {"accept": "application/json"}, 200),
    "list": ("GET", "/topics", {"accept": "application/json"}, 200),
    "head of a stream": ("HEAD", "/topics/news", {}, 200),
    "publish": ("POST", "/topics/news", {}, 201),
    "publish to several": ("POST", "/topics?topic=a&topic=b", {}, 201),
    "streamed": ("POST", "/topics/news", {"content-type": "application/x-ndjson"}, 200),
    "delete": ("DELETE", "/topics/news", {}, 204),
    "bad topic": ("POST", "/topics/a..b", {}, 400),
    "foreign page": ("POST", "/topics/news", {"origin": "https://evil.example"}, 403),
    "foreign host": ("GET", "/", {"host": "evil.example"}, 403),
    "no route": ("GET", "/nowhere", {}, 404),
    "no method": ("PUT", "/topics/news", {}, 405),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_security_headers(server: Server, name: str) -> None:
    method, target, headers, status = ANSWERS[name]
    answer = await server.request(method, target, **headers)
    assert answer.status == status
    _check(answer.headers)
    if "html" in answer.headers.get("content-type", ""):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


async def test_security_headers_of_a_stream(server: Server) -> None:
    _check((await server.subscribe("/topics/news")).headers)


@pytest.mark.parametrize("serve", ["front"], indirect=True)
@pytest.mark.parametrize(
    "malformed",
    [b"\x16\x03\x01 hello\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\n\r\n"],
)
async def test_security_headers_of_the_answer_to_a_malformed_request(
    server: Server, malformed: bytes
) -> None:
    reader, _writer = await server.send(malformed)
    status, headers = await read_head(reader, versions=(b"HTTP/1.0", b"HTTP/1.1"))
    assert status == 400
    _check(headers)


def _check(headers: dict[str, str]) -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers, "it would show which version to attack"
    assert "aiohttp" not in str(headers).lower()


@pytest.mark.parametrize("origin", [None, "https://a.example"])
def test_the_lines_of_a_head_have_the_present_date(
    monkeypatch: pytest.MonkeyPatch, origin: str | None
) -> None:
    made = headers.ResponseHeaders(AllowedOrigins(["https://a.example"]))
    for now, date in ((0.9, b"00:00:00"), (0.95, b"00:00:00"), (1.0, b"00:00:01")):
        monkeypatch.setattr(headers, "time", lambda now=now: now)
        lines = made.lines(origin, "Accept")
        assert b"Date: Thu, 01 Jan 1970 %b GMT\r\n" % date in lines
        assert b"Vary: Accept, Origin\r\n" in lines
        assert (b"Access-Control-Allow-Origin" in lines) == (origin is not None)
