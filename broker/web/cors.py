"""What pages of other origins may do (CORS: Fetch standard §3.2).

Rules: decides by `Origin` alone. Only an origin allowed by name may use credentials such as a cookie, never by `*`. A plain
POST needs no preflight, so `guard` checks it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from broker.errors import DenialReason, Forbidden
from broker.hosts import NAME
from broker.web.request_headers import Headers
from broker.web.values import Answer

ANY = "*"
METHODS = "GET, HEAD, POST, DELETE"
REQUEST_HEADERS = (
    "Accept, Authorization, Broker-Producer, Broker-Sequence, Cache-Control, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, "
    "baggage, sentry-trace, traceparent, tracestate, X-Requested-With"
)
"""Headers that a page may send; those in the second line are added by tracing and HTTP libraries (W3C Trace Context, Sentry).
`*` would not include Authorization (Fetch §4.9)."""
EXPOSED_HEADERS = "Allow, ETag, Idempotency-Replayed, Retry-After, WWW-Authenticate, X-Request-ID"
"""Headers of an answer that a page may read besides the usual ones."""
PREFLIGHT_SECONDS = 7200
"""How long a browser may cache a preflight; Chromium's maximum."""


class AllowedOrigins:
    """The origins of pages that may use the broker.

    Args:
        allowed: as browsers write them, in lower case; `*.` before a host for all names below it; `*` for all origins.
        request_headers: headers that pages may send besides `REQUEST_HEADERS`.
    """

    def __init__(self, allowed: Collection[str], request_headers: Collection[str] = ()) -> None:
        self._named = frozenset(allowed) - {ANY}
        self._allows_all = ANY in allowed
        self._below = tuple(_names_below(origin) for origin in allowed if "://*." in origin)
        self._request_headers = ", ".join((REQUEST_HEADERS, *request_headers))

    def names(self, origin: str | None) -> bool:
        """Whether `origin` is allowed by name, and so with credentials."""
        if origin is None:
            return False
        origin = origin.lower()
        return origin in self._named or any(pattern.fullmatch(origin) for pattern in self._below)

    def allows(self, origin: str | None) -> bool:
        """Whether `origin` is allowed, by name or by `*`."""
        return origin is not None and (self._allows_all or self.names(origin))

    def headers(self, origin: str | None) -> dict[str, str]:
        """The CORS headers of an answer to a request from `origin`."""
        headers: dict[str, str] = {}
        if self._named:
            headers["Vary"] = "Origin"  # a cache would give one origin's answer to another
        if origin is not None and self.allows(origin):
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            headers["Access-Control-Allow-Origin"] = ANY
            if self.names(origin):
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Allow-Credentials"] = "true"
        return headers

    def preflight(self, headers: Headers) -> Answer | None:
        """The answer to an OPTIONS request if it is a preflight (Fetch §4.8), which carries no token; else None.

        Raises:
            Forbidden: the origin is not allowed.
        """
        if "access-control-request-method" not in headers:
            return None
        if not self.allows(headers.get("origin")):
            raise Forbidden(
                "Pages of this origin may not use this broker; allow the origin with --cors-origins.",
                reason=DenialReason.ORIGIN,
            )
        return Answer(
            204,
            headers={
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": self._request_headers,
                "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
            },
        )


def _names_below(origin: str) -> re.Pattern[str]:
    """What matches the origins of all names below that of `scheme://*.name`."""
    scheme, _, rest = origin.partition("*")
    return re.compile(f"{re.escape(scheme)}{NAME}{re.escape(rest)}")
