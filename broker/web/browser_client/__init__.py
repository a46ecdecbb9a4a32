"""The browser client, an ES module: `GET /client.js`, and the modules it loads from `/client/`.

Rules: this folder is also its npm package. The modules load each other by relative addresses, so they work below any path.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from broker.errors import BrokerError
from broker.web.etag import tagged
from broker.web.services import Services
from broker.web.values import Answer, Request

_HEADERS = {"Cache-Control": "no-cache", "Content-Type": "text/javascript; charset=utf-8"}
MODULES = ("chat.js", "iterate.js", "keep.js", "leader.js", "pages.js", "react.js", "shared.js", "tokens.js")
"""What `/client/` has."""


class NoSuchModule(BrokerError):
    """The caller's fault: the client has no such module."""

    code = "not-found"


async def client(services: Services, request: Request) -> Answer:
    """`GET /client.js`: the core."""
    return await _module(services, request, "client.js")


async def part(services: Services, request: Request) -> Answer:
    """`GET /client/{name}`: a part that the core, or a page, loads when it needs it."""
    name = request.path_values["name"]
    if name not in MODULES:
        raise NoSuchModule(f"The client has no such module. It has {', '.join(MODULES)}.")
    return await _module(services, request, f"client/{name}")


async def _module(services: Services, request: Request, name: str) -> Answer:
    await services.authenticator.check_host(request)
    return tagged(_read(name), _HEADERS, request.headers.get("if-none-match", ""))


@lru_cache
def _read(name: str) -> bytes:
    return (files(__name__) / name).read_bytes()
