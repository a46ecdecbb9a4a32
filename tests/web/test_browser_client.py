"""The browser client's files."""

from __future__ import annotations

import gzip
import re

import pytest

from broker.web.browser_client import MODULES
from tests.support.local_broker import Serve, Server

CORE_BYTES = 5 << 10
ORIGIN = "https://app.example"


async def test_the_core_is_small(server: Server) -> None:
    answer = await server.request("GET", "/client.js")
    assert len(gzip.compress(answer.body, 9)) <= CORE_BYTES


@pytest.mark.parametrize("path", ["/client.js", *(f"/client/{name}" for name in MODULES)])
async def test_a_module_is_served(server: Server, path: str) -> None:
    answer = await server.request("GET", path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = await server.request("GET", path, if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    changed = await server.request("GET", path, if_none_match='"other"')
    assert (changed.status, changed.body) == (200, answer.body)


async def test_all_that_a_module_loads_is_served(server: Server) -> None:
    core = (await server.request("GET", "/client.js")).body.decode()
    loaded = set(re.findall(r'import\("\./(client/\w+\.js)"\)\)?[;.]', core))
    assert {"client/pages.js", "client/shared.js"} <= loaded
    assert loaded <= {f"client/{name}" for name in MODULES}
    for name in MODULES:
        part = (await server.request("GET", f"/client/{name}")).body.decode()
        for source in re.findall(r'^import .* from "(\..*)";$', part, re.MULTILINE):
            assert source == "../client.js" or source.removeprefix("./") in MODULES


async def test_there_is_nothing_else(server: Server) -> None:
    for name in ("package.json", "types.d.ts", "..%2Fclient.js", "__init__.py"):
        assert (await server.request("GET", f"/client/{name}")).status == 404


async def test_below_a_base_path(serve: Serve) -> None:
    server = await serve(base_path="/events")
    assert (await server.request("GET", "/events/client.js")).status == 200
    assert (await server.request("GET", "/events/client/pages.js")).status == 200
    assert (await server.request("GET", "/client.js")).status == 404


async def test_pages_of_allowed_origins_may_load_it(serve: Serve) -> None:
    server = await serve(cors_origins=ORIGIN)
    allowed = await server.request("GET", "/client.js", origin=ORIGIN)
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    other = await server.request("GET", "/client.js", origin="https://other.example")
    assert "access-control-allow-origin" not in other.headers
