"""A broker with a base path for all its URLs."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from broker.web.base_path import BasePath
from tests.support.local_broker import Serve, Server


@pytest.fixture
async def prefixed(serve: Serve) -> Server:
    return await serve(
        base_path="/events/",
        cors_origins="https://a.example",
        jwt_secrets=["x" * 32],
        anonymous="publish,subscribe",
    )


@pytest.mark.parametrize(
    ("prefix", "path", "below"),
    [
        ("", "/topics/a", "/topics/a"),
        ("", "/events/topics/a", "/events/topics/a"),
        ("/events", "/events/topics/a", "/topics/a"),
        ("/events", "/events/", "/"),
        ("/events", "/events/events", "/events"),
        ("/events", "/events", None),
        ("/events", "/eventsx/topics/a", None),
        ("/events", "/topics/a", None),
        ("/events", "/", None),
        ("/events", "/healthz", "/healthz"),
        ("/events", "/events/healthz", "/healthz"),
        ("/a/b", "/a/b/metrics", "/metrics"),
        ("/a/b", "/a/metrics", None),
    ],
)
def test_the_path_below_the_prefix(prefix: str, path: str, below: str | None) -> None:
    assert BasePath(prefix).below(path) == below


async def test_every_path_lies_under_it(prefixed: Server) -> None:
    stream = await prefixed.subscribe("/events/topics/news")
    assert (await prefixed.request("POST", "/events/topics/news", b"x")).status == 201
    assert (await prefixed.request("POST", "/events/topics?topic=news", b"y")).status == 201
    assert await stream.data(2) == ["x", "y"]
    assert (await prefixed.request("GET", "/events/topics/news", accept="application/json")).status == 200
    assert (await prefixed.request("GET", "/events/none")).status == 404
    refused = await prefixed.request("PUT", "/events/topics/news")
    assert (refused.status, refused.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")


@pytest.mark.parametrize(
    "path",
    ["/", "/topics/news", "/topics", "/page/page.js", "/eventsx", "/%65vents/topics/news", "/admin/revoke"],
)
async def test_outside_it_everything_is_404(prefixed: Server, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await prefixed.request(method, path)
        assert (answer.status, answer.json()["code"]) == (404, "not-found")


@pytest.mark.parametrize("path", ["/topics", "/events/nowhere"])
async def test_the_answer_to_an_unknown_path_says_where_topics_are(prefixed: Server, path: str) -> None:
    assert "at /events/topics/{topic}." in (await prefixed.request("GET", path)).json()["detail"]


@pytest.mark.parametrize("start", ["", "/events"])
async def test_probes_are_at_the_root_too_and_may_use_any_host(prefixed: Server, start: str) -> None:
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 401)):
        assert (await prefixed.request("GET", start + path, host="evil.example")).status == status, path


async def test_the_prefix_alone_leads_to_the_page(prefixed: Server) -> None:
    answer = await prefixed.request("GET", "/events")
    assert (answer.status, answer.headers["location"]) == (308, "/events/")
    assert (await prefixed.request("POST", "/events")).status == 404


@pytest.mark.parametrize(
    ("query", "kept"),
    [("topic=a&topic=b%20c", "topic=a&topic=b%20c"), ("x=/y?z", "x=/y?z"), ("%C3%A9", "%C3%A9")],
)
async def test_the_prefix_alone_keeps_its_query(prefixed: Server, query: str, kept: str) -> None:
    answer = await prefixed.request("GET", f"/events?{query}")
    assert (answer.status, answer.headers["location"]) == (308, f"/events/?{kept}")


async def test_origins_have_no_path(prefixed: Server) -> None:
    own = f"http://127.0.0.1:{prefixed.port}"
    for origin, status in ((own, 201), ("https://a.example", 201), ("https://b.example", 403)):
        answer = await prefixed.request(
            "POST", "/events/topics/news", b"x", host=own.removeprefix("http://"), origin=origin
        )
        assert answer.status == status
    preflight = await prefixed.request(
        "OPTIONS", "/events/topics/news", origin="https://a.example", access_control_request_method="POST"
    )
    assert preflight.status == 204


@pytest.mark.parametrize(("path", "up"), [("/events/", ""), ("/events/topics/news", "../")])
async def test_the_links_of_the_page_are_relative(prefixed: Server, path: str, up: str) -> None:
    page = (await prefixed.request("GET", path, accept="text/html")).body.decode()
    links = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert len(links) > 10
    for link in links:
        assert link.startswith(
            (f"{up}page/", f"{up}openapi.json", f"{up}client.js", f"{up}client/", f"{up}./", f"{up}topics")
        )
        assert (await prefixed.request("GET", urljoin(path, link), accept="text/html")).status == 200
