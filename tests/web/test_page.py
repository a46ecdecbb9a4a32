"""The files of the page."""

from __future__ import annotations

import re

import pytest

from tests.support.local_broker import Server


@pytest.mark.parametrize("path", ["/", "/topics", "/topics/news"])
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
    assets = re.findall(r'(?:src|href)="((?:\.\./)?page/[^"]+)"', page)
    assert assets
    for asset in assets:
        assert (await server.request("GET", "/" + asset.removeprefix("../"))).status == 200
    assert (await server.request("GET", "/page/other.js")).status == 404
    assert (await server.request("GET", "/page/..%2F__init__.py")).status == 404


@pytest.mark.parametrize("path", ["/", "/topics"])
async def test_page_loads_all_its_modules_at_once(server: Server, path: str) -> None:
    """Named in the page, they don't wait for each other to be read."""
    page = (await server.request("GET", path, accept="text/html")).body.decode()
    named = set(re.findall(r'"page/(\w+\.js)"', page))
    assert named
    for module in named:
        answer = await server.request("GET", f"/page/{module}")
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert set(re.findall(r'^import .* from "\./(.+)";$', answer.body.decode(), re.MULTILINE)) <= named


async def test_all_topics_are_a_page_only_for_a_browser_that_names_none(server: Server) -> None:
    for target, accept, kind in (
        ("/topics", "text/html,*/*;q=0.8", "text/html"),
        ("/topics", "application/json", "application/json"),
        ("/topics?topic=a", "text/html,*/*;q=0.8", "text/event-stream"),
    ):
        assert (await server.request("HEAD", target, accept=accept)).headers["content-type"].startswith(kind)


async def test_the_charts_library_is_served_where_the_build_has_put_it(server: Server) -> None:
    """Without it the page goes without charts; `tests/run` puts it there."""
    answer = await server.request("GET", "/page/uPlot.js")
    assert answer.body.startswith(b"/*! https://github.com/leeoniya/uPlot")
    assert answer.body.endswith(b"export default uPlot;\n")
    assert (await server.request("GET", "/page/uPlot.css")).headers["content-type"].startswith("text/css")
    assert (await server.request("GET", "/page/made-from")).status == 404
