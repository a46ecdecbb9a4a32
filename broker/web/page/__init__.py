"""The web page: publish to topics and watch them live.

Its files are read once and served as they are; the content security policy lets nothing else run.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import PurePath

from aiohttp import web

from broker.errors import BrokerError

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
    """The caller's: the page has no such file."""

    code = "not-found"


def page() -> web.Response:
    """The page itself; which topic it shows it takes from its own address."""
    headers = {**_HEADERS, "Cache-Control": "no-store", "Vary": "Accept"}
    return web.Response(body=_read("index.html"), content_type="text/html", charset="utf-8", headers=headers)


async def index(_request: web.Request) -> web.Response:
    """`GET /`."""
    return page()


async def asset(request: web.Request) -> web.Response:
    """What the page loads."""
    name = request.match_info["name"]
    if name not in _assets():
        raise NotFound("The page has no such file.")
    headers = {**_HEADERS, "Cache-Control": "no-cache"}
    content_type = _TYPES[PurePath(name).suffix]
    return web.Response(body=_read(name), content_type=content_type, charset="utf-8", headers=headers)


@lru_cache
def _assets() -> frozenset[str]:
    return frozenset(file.name for file in files(__name__).iterdir() if PurePath(file.name).suffix in _TYPES)


@lru_cache
def _read(name: str) -> bytes:
    return (files(__name__) / name).read_bytes()
