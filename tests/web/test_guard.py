"""Requests that another site's page made a browser send."""

from __future__ import annotations

import pytest

from tests.support.local_broker import Serve


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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("localhost.", 200),
        ("app.localhost:1", 200),
        ("127.0.0.1", 200),
        ("127.9.9.9:80", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("mine.example", 200),
        ("mine.example:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("0.0.0.0", 403),
        ("[::2]:80", 403),
        ("localhost:80@evil.example", 403),
    ],
)
async def test_host_on_loopback(serve: Serve, host: str, status: int) -> None:
    server = await serve(allowed_hosts="mine.example, other.example")
    for target in ("/healthz", "/topics/news?limit=1"):
        answer = await server.request("GET", target, host=host, accept="application/json")
        assert answer.status == status


async def test_host_is_free_elsewhere(serve: Serve) -> None:
    server = await serve(
        host="0.0.0.0", anonymous="subscribe"
    )  # it listens on loopback all the same: the test's server does
    assert (await server.request("GET", "/healthz", host="any.example")).status == 200
