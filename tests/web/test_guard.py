"""What another site's page can't make a browser do: by its own name for this machine, or by a request of another origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC, SECRET

KEYS = f'["{SECRET}"]'
EVIL = "evil.example"

OPEN_SETTINGS: dict[str, dict[str, Any]] = {
    "loopback": {},
    "loopback, anonymous": {"anonymous": "publish,subscribe"},
    "all addresses, anonymous": {"host": "0.0.0.0", "anonymous": "publish,subscribe"},
    "all addresses, anonymous and keys": {
        "host": "0.0.0.0",
        "anonymous": "publish,subscribe",
        "jwt_secrets": KEYS,
    },
}
"""All ways in which something is allowed without a token. The test's server listens on loopback all the same."""

LOCAL_HOSTS = [
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "app.localhost:1",
    "127.0.0.1",
    "127.9.9.9:80",
    "[::1]:8080",
    "[::1]",
    "10.0.0.1",
    "203.0.113.9:8080",
    "[2001:db8::1]:80",
    "broker",
    "broker:8080",
    "my_broker",
    "broker.default.svc",
    "broker.default.svc.cluster.local:8080",
    "broker.default.cluster.local.",
    "host.docker.internal:8080",
]
FOREIGN_HOSTS = [
    EVIL,
    f"{EVIL}:8080",
    f"{EVIL}.",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost:80@evil.example",
    "svc.evil.example",
    "evilsvc.example",
    "notinternal.example",
    "evil.internal.example",
    "localhost:80@evil",
    "evil/.svc",
    "xn--bcher-kva.example",
]


async def statuses(server: Server, host: str, **headers: str) -> dict[str, int]:
    """The status of each kind of request that names this host."""
    asked = {
        "publish": ("POST", "/topics/news", b"x", {"origin": f"http://{host}"}),
        "look": ("GET", "/topics/news", b"", {"accept": "application/json"}),
        "head": ("HEAD", "/topics/news", b"", {"accept": "text/event-stream"}),
        "page": ("GET", "/", b"", {"accept": "text/html"}),
        "page of a topic": ("GET", "/topics/news", b"", {"accept": "text/html"}),
        "asset": ("GET", "/page/page.js", b"", {}),
    }
    found = {}
    for name, (method, target, body, own) in asked.items():
        answer = await server.request(method, target, body, **{**own, **headers, "host": host})
        found[name] = answer.status
    stream = await server.subscribe("/topics/news", connection="close", host=host, **headers)
    found["stream"] = stream.status
    return found


@pytest.mark.parametrize("settings", OPEN_SETTINGS.values(), ids=OPEN_SETTINGS)
async def test_a_rebound_name_gets_nothing_without_a_token(serve: Serve, settings: dict[str, Any]) -> None:
    server = await serve(**settings)
    assert set((await statuses(server, EVIL)).values()) == {403}
    assert set((await statuses(server, "localhost")).values()) == {200, 201}


@pytest.mark.parametrize("settings", OPEN_SETTINGS.values(), ids=OPEN_SETTINGS)
async def test_only_local_names_and_addresses_need_no_token(serve: Serve, settings: dict[str, Any]) -> None:
    server = await serve(**settings)
    for host in LOCAL_HOSTS:
        assert (
            await server.request("HEAD", "/topics/a", host=host, accept="text/event-stream")
        ).status == 200, host
    for host in FOREIGN_HOSTS:
        answer = await server.request("GET", "/topics/a", host=host, accept="application/json")
        assert (answer.status, answer.json()["code"]) == (403, "forbidden"), host
        assert "--allowed-hosts" in str(answer.json()["detail"])


@pytest.mark.parametrize("settings", OPEN_SETTINGS.values(), ids=OPEN_SETTINGS)
async def test_probes_and_scrapes_come_by_any_name(serve: Serve, settings: dict[str, Any]) -> None:
    server = await serve(**settings)
    for path in ("/healthz", "/readyz"):
        assert (await server.request("GET", path, host=EVIL)).status == 200
    metrics = (await server.request("GET", "/metrics", host=EVIL)).status
    assert metrics == (401 if settings else 200), "as with any other name"


async def test_with_a_valid_token_every_name_is_good(serve: Serve) -> None:
    server = await serve(anonymous="publish,subscribe", jwt_secrets=KEYS)
    token = HMAC.token(["**"], ["**"])
    assert set((await statuses(server, EVIL, authorization=f"Bearer {token}")).values()) == {200, 201}
    bad = await statuses(server, EVIL, authorization="Bearer bad")
    assert {bad.pop("page"), bad.pop("page of a topic"), bad.pop("asset")} == {403}
    assert set(bad.values()) == {401}
    preflight = await server.request(
        "OPTIONS", "/topics/news", origin="https://a.example", access_control_request_method="GET", host=EVIL
    )
    assert preflight.json()["detail"].startswith("Pages of this origin"), "it can carry no token"


async def test_where_every_right_needs_a_token_the_name_is_free(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    assert (await server.request("GET", "/", host=EVIL)).status == 200
    assert (await server.request("POST", "/topics/a", b"x", host=EVIL)).status == 401


ALLOWED_HOSTS = {
    # the setting: (allowed values of Host, refused ones)
    "mine.example": (["mine.example", "MINE.example.", "mine.example:8080"], ["sub.mine.example"]),
    "mine.example:8080": (["mine.example:8080"], ["mine.example", "mine.example:8081"]),
    "mine.example:443": (["mine.example", "mine.example:443"], []),
    "https://Mine.example": (["mine.example", "mine.example:443"], ["https://mine.example"]),
    "http://mine.example:8080/": (["mine.example:8080"], ["mine.example"]),
    "mine.example/": (["mine.example"], []),
    "mine.example.": (["mine.example"], []),
    "*.mine.example": (
        ["a.mine.example", "a.b.mine.example:1"],
        ["mine.example", "evilmine.example", "a/.mine.example"],
    ),
    "*.mine.example:8080": (["a.mine.example:8080"], ["a.mine.example"]),
    "*": (["anything.example", "x.y.example:1"], []),
}


@pytest.mark.parametrize("setting", ALLOWED_HOSTS)
async def test_allowed_hosts(serve: Serve, setting: str) -> None:
    server = await serve(allowed_hosts=f"other.example, {setting}")
    allowed, refused = ALLOWED_HOSTS[setting]
    for hosts, status in ((allowed, 200), (refused, 403)):
        for host in hosts:
            answer = await server.request("GET", "/topics/a", host=host, accept="application/json")
            assert answer.status == status, host


# Origin


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


OWN = "events.example.com"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (OWN, f"https://{OWN}", 201),
        (OWN, f"http://{OWN}", 201),
        (f"{OWN}:443", f"https://{OWN}", 201),
        (OWN, f"https://{OWN}:443", 201),
        (f"{OWN}:80", f"http://{OWN}", 201),
        (f"{OWN}:443", f"http://{OWN}", 403),
        (f"{OWN}:80", f"https://{OWN}", 403),
        (f"{OWN}:8443", f"https://{OWN}:8443", 201),
        (f"{OWN}:8443", f"https://{OWN}", 403),
        (OWN, f"ftp://{OWN}", 403),
        (OWN, OWN, 403),
        (OWN, "https://", 403),
        ("[::1]:8080", "http://[::1]:8080", 201),
        ("[::1]:443", "https://[::1]", 201),
    ],
)
async def test_own_origin(serve: Serve, host: str, origin: str, status: int) -> None:
    server = await serve(allowed_hosts=OWN)
    assert (await server.request("POST", "/topics/a", b"x", host=host, origin=origin)).status == status


@pytest.mark.parametrize("by", ["X-Forwarded-Proto: https", "Forwarded: for=1.2.3.4;proto=https", "TLS"])
async def test_a_page_by_http_is_another_origin_than_a_broker_by_https(
    serve: Serve, tmp_path: Path, by: str
) -> None:
    tls = {"tls_cert": tmp_path / "c", "tls_key": tmp_path / "k"} if by == "TLS" else {}
    server = await serve(allowed_hosts=OWN, **tls)  # the test's server serves plain HTTP all the same
    name, _, value = by.partition(": ")
    forwarded = {name: value} if value else {}
    for origin, status in ((f"https://{OWN}", 201), (f"http://{OWN}", 403)):
        answer = await server.request("POST", "/topics/a", b"x", host=OWN, origin=origin, **forwarded)
        assert answer.status == status


async def test_a_cookie_is_no_good_for_a_page_by_http_either(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    sent = {"cookie": f"broker_token={HMAC.token(['**'])}", "host": OWN, "x_forwarded_proto": "https"}
    for origin, status in ((f"https://{OWN}:443", 201), (f"http://{OWN}", 403)):
        assert (await server.request("POST", "/topics/a", b"x", origin=origin, **sent)).status == status


# Cookies


@pytest.mark.parametrize("separate", [False, True], ids=["one header", "two headers"])
async def test_two_tokens_in_cookies_are_refused(serve: Serve, separate: bool) -> None:
    """Any page of a sub-domain can set a second one."""
    server = await serve(jwt_secrets=KEYS)
    mine, tossed = HMAC.token(subscribe=["**"], sub="me"), HMAC.token(subscribe=["**"], sub="evil")
    for first, second in ((mine, tossed), (tossed, mine)):
        if separate:
            sent = {"cookie": f"broker_token={first}", "Cookie": f"a=b; broker_token={second}"}
        else:
            sent = {"cookie": f"broker_token={first}; a=b; broker_token={second}"}
        answer = await server.request("GET", "/topics/a", accept="application/json", **sent)
        assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
        assert "broker_token" in str(answer.json()["detail"])


async def test_a_token_in_the_second_cookie_header_counts(serve: Serve) -> None:
    server = await serve(jwt_secrets=KEYS)
    sent = {"cookie": "a=b", "Cookie": f"broker_token={HMAC.token(subscribe=['**'])}"}
    assert (await server.request("GET", "/topics/a", accept="application/json", **sent)).status == 200
