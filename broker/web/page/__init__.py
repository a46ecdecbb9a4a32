"""The web pages: the dashboard, and one to publish to topics and watch them live.

Their files are read once. The content security policy lets nothing else run. All their links are relative, so they work below
any path, even if a proxy takes that path off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath

from broker.errors import BrokerError
from broker.web.services import Services
from broker.web.values import Answer, Request

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
}


class NotFound(BrokerError):
    """The caller's fault: the page has no such file."""

    code = "not-found"


async def dashboard(services: Services, request: Request) -> Answer:
    """`GET /`: the dashboard."""
    return await _page(services, request, "dashboard.html")


async def topic(services: Services, request: Request) -> Answer:
    """A topic's path, and that of all topics: the page for topics, which takes its topic from its own address."""
    return await _page(services, request, "index.html")


async def _page(services: Services, request: Request, name: str) -> Answer:
    await services.authenticator.check_host(request)
    headers = {
        **_HEADERS,
        "Cache-Control": "no-store",
        "Vary": "Accept",
        "Content-Type": "text/html; charset=utf-8",
    }
    return Answer(200, _html(name, "../" * (request.path.count("/") - 1)), headers)


async def asset(services: Services, request: Request) -> Answer:
    """`GET /page/{name}`: a file that the page loads."""
    await services.authenticator.check_host(request)
    name = request.path_values["name"]
    if name not in _files() or PurePath(name).suffix not in _TYPES:
        raise NotFound("The page has no such file.")
    content_type = f"{_TYPES[PurePath(name).suffix]}; charset=utf-8"
    return Answer(200, _read(name), {**_HEADERS, "Cache-Control": "no-cache", "Content-Type": content_type})


@cache
def _files() -> Mapping[str, Traversable]:
    """The files of the pages, by name. The build adds those in `uplot`, which draw the charts."""
    here = files(__name__)
    folders = [here, uplot] if (uplot := here / "uplot").is_dir() else [here]
    return {file.name: file for folder in folders for file in folder.iterdir() if file.is_file()}


@lru_cache
def _html(name: str, up: str) -> bytes:
    """A page with links that begin with `up`."""
    return re.sub(rb'\b((?:href|src)=")(?!#)', rb"\1" + up.encode(), _read(name))


@cache
def _read(name: str) -> bytes:
    return _files()[name].read_bytes()
