"""Refuses what a browser was made to send by a page that has no business here (contract §5).

Two rules. A POST or DELETE from a page of another origin is forbidden: cross-site request forgery. While the broker
listens on loopback, a Host that is no loopback name is forbidden: a page elsewhere could point its own name at 127.0.0.1
and read what is meant for this machine.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from broker.errors import Forbidden
from broker.hosts import is_loopback
from broker.web.cors import AllowedOrigins

_CHANGING = frozenset({hdrs.METH_POST, hdrs.METH_DELETE, hdrs.METH_PUT, hdrs.METH_PATCH})


def guard(*, loopback_only: bool, allowed_hosts: Collection[str], origins: AllowedOrigins) -> Middleware:
    """The middleware; `loopback_only` where the broker listens on a loopback address and is open to all there."""
    hosts = frozenset(host.lower() for host in allowed_hosts)

    @lru_cache(maxsize=64)
    def is_own_host(host: str) -> bool:
        name = _without_port(host)
        return not name or is_loopback(name) or name in hosts or host.lower() in hosts

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        if loopback_only and not is_own_host(headers.get(hdrs.HOST, "")):
            raise Forbidden(
                "This broker listens on a loopback address and is asked for by another name; "
                "use localhost, or allow the name with --allowed-hosts."
            )
        if request.method in _CHANGING and (hdrs.ORIGIN in headers or "Sec-Fetch-Site" in headers):
            _check_origin(request, origins)
        return await handler(request)

    return guarded


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() and (not name.count(":") or name.endswith("]")) else host.lower()


def _check_origin(request: web.Request, origins: AllowedOrigins) -> None:
    origin = request.headers.get(hdrs.ORIGIN)
    if origins.allow(origin):
        return
    if (
        origin is not None and not is_own_origin(origin, request.headers.get(hdrs.HOST, ""))
    ) or request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise Forbidden("Pages of another origin may not change anything here; allow it with --cors-origins.")


def is_own_origin(origin: str, host: str) -> bool:
    """Whether `origin` is that of the broker itself, which was asked for as `host`."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
