"""The files of the page."""

from __future__ import annotations

import re

import pytest

from tests.support.local_broker import Server


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
    assets = re.findall(r'(?:src|href)="((?:\.\./)?page/[^"]+)"', page)
    assert assets
    for asset in assets:
        assert (await server.request("GET", "/" + asset.removeprefix("../"))).status == 200
    assert (await server.request("GET", "/page/other.js")).status == 404
    assert (await server.request("GET", "/page/..%2F__init__.py")).status == 404


async def test_page_loads_all_its_modules_at_once(server: Server) -> None:
    """Named in the page, they don't wait for each other to be read."""
    page = (await server.request("GET", "/", accept="text/html")).body.decode()
    named = set(re.findall(r'"page/(\w+\.js)"', page))
    assert named
    for module in named:
        answer = await server.request("GET", f"/page/{module}")
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert set(re.findall(r'^import .* from "\./(.+)";$', answer.body.decode(), re.MULTILINE)) <= named
