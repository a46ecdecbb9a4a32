"""What pages of other origins may do (CORS: Fetch standard §3.2).

Rules: decides by the request's `Origin` alone. Credentials, such as a cookie, go with an origin that is named, never with
`*`. Whether a page may change anything is the guard's to refuse: a browser sends a plain POST without asking.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from broker.errors import Forbidden

ANY = "*"
METHODS = "GET, HEAD, POST, DELETE"
REQUEST_HEADERS = "Accept, Authorization, Broker-Producer, Broker-Sequence, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID"
"""Those that a page may send; `*` would leave Authorization out (Fetch §4.9)."""
EXPOSED_HEADERS = "Allow, Idempotency-Replayed, Retry-After, WWW-Authenticate"
"""Those of an answer that a page may read, beside the ones it always may."""
PREFLIGHT_SECONDS = 7200
"""How long a browser may remember a preflight; Chromium remembers none for longer."""


class AllowedOrigins:
    """Those whose pages are let in.

    Args:
        allowed: as browsers write them, in lower case; `*` for all.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._named = frozenset(allowed) - {ANY}
        self._all = ANY in allowed

    def name(self, origin: str | None) -> bool:
        """Whether `origin` is allowed by its name, and so with credentials."""
        return origin is not None and origin.lower() in self._named

    def allow(self, origin: str | None) -> bool:
        """Whether pages of `origin` are let in at all."""
        return origin is not None and (self._all or origin.lower() in self._named)

    def headers(self, origin: str | None) -> dict[str, str]:
        """What an answer to a request with this `Origin` says of it."""
        found: dict[str, str] = {}
        if self._named:
            found[hdrs.VARY] = hdrs.ORIGIN  # a cache would give one origin's answer to another
        if origin is not None and self.allow(origin):
            found[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS
            found[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = ANY
            if self.name(origin):
                found[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
                found[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        return found


def preflights(origins: AllowedOrigins) -> Middleware:
    """The middleware that answers what browsers ask before a request that no form could send (Fetch §4.8).

    It carries no token, so it is answered before anybody looks for one.
    """

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in headers:
            return await handler(request)
        if not origins.allow(headers.get(hdrs.ORIGIN)):
            raise Forbidden("Pages of this origin aren't let in; allow it with --cors-origins.")
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
            },
        )

    return answered
