"""The web page: publish to topics and watch them live.

Its files are read once. The content security policy lets nothing else run. All its links are relative, so it works below any
path, even if a proxy takes that path off.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
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


def html(path: str) -> Answer:
    """The page itself at `path`; it takes the topic that it shows from its own address."""
    headers = {
        **_HEADERS,
        "Cache-Control": "no-store",
        "Vary": "Accept",
        "Content-Type": "text/html; charset=utf-8",
    }
    return Answer(200, _html("../" * (path.count("/") - 1)), headers)


async def index(services: Services, request: Request) -> Answer:
    """`GET /`, and a topic's path: the page."""
    await services.authenticator.check_host(request)
    return html(request.path)


async def asset(services: Services, request: Request) -> Answer:
    """`GET /page/{name}`: a file that the page loads."""
    await services.authenticator.check_host(request)
    name = request.path_values["name"]
    if name not in _assets():
        raise NotFound("The page has no such file.")
    content_type = f"{_TYPES[PurePath(name).suffix]}; charset=utf-8"
    return Answer(200, _read(name), {**_HEADERS, "Cache-Control": "no-cache", "Content-Type": content_type})


@lru_cache
def _assets() -> frozenset[str]:
    return frozenset(file.name for file in files(__name__).iterdir() if PurePath(file.name).suffix in _TYPES)


@lru_cache
def _html(up: str) -> bytes:
    """The page with links that begin with `up`."""
    return re.sub(rb'="(?=page/|openapi\.json)', b'="%b' % up.encode(), _read("index.html"))


@lru_cache
def _read(name: str) -> bytes:
    return (files(__name__) / name).read_bytes()
