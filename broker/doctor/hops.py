"""Recognises the proxies on a path by their traces in responses.

Rules: a proxy that leaves no trace isn't recognised; nothing here is guessed. The nearest proxy comes first. Most add `Server`
or `Via`, some headers of their own. HAProxy and Traefik add nothing, but their own answer to a malformed request has a known
text.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence

from broker.doctor import wire

NGINX, HAPROXY, CADDY, ENVOY, TRAEFIK = "nginx", "HAProxy", "Caddy", "Envoy", "Traefik"
ALB, CLOUDFLARE = "ALB", "Cloudflare"
GO = "a proxy written in Go, such as Traefik"
PROXIES = (NGINX, HAPROXY, CADDY, ENVOY, TRAEFIK, ALB, CLOUDFLARE)
"""Those that remedies are written for."""

_BY_SERVER = {
    "cloudflare": CLOUDFLARE,
    "awselb": ALB,
    "openresty": NGINX,
    "nginx": NGINX,
    "tengine": NGINX,
    "caddy": CADDY,
    "envoy": ENVOY,
    "istio-envoy": ENVOY,
    "haproxy": HAPROXY,
    "traefik": TRAEFIK,
    "cloudfront": "CloudFront",
    "varnish": "Varnish",
    "google": "Google's load balancer",
    "fastly": "Fastly",
}
"""By a piece of `Server` or `Via`, in lower case."""
_BY_HEADER = {
    "cf-ray": CLOUDFLARE,
    "x-envoy-upstream-service-time": ENVOY,
    "x-amz-cf-id": "CloudFront",
    "x-varnish": "Varnish",
    "x-served-by": "Fastly",
}
MALFORMED_HEADER = b"broker doctor: a header name with a space"
_BY_ERROR_PAGE = {
    b"Your browser sent an invalid request.": HAPROXY,
    b"<center>nginx": NGINX,
    b"<center>openresty": NGINX,
    b"invalid header name": GO,
}
"""By a piece of the answer to a malformed request."""
SECONDS = 5.0


def from_headers(headers: Mapping[str, str]) -> Sequence[str]:
    """The proxies that a response names."""
    named = f"{headers.get('Server', '')} {headers.get('Via', '')}".lower()
    found = [name for piece, name in _BY_SERVER.items() if piece in named]
    found += [name for header, name in _BY_HEADER.items() if header in headers]
    return distinct(found)


async def from_error_page(url: str, context: ssl.SSLContext | None, host: str) -> Sequence[str]:
    """The nearest proxy, if its own answer to a malformed request shows which one it is. Raises `OSError`."""
    request = b"GET / HTTP/1.1\r\nHost: %b\r\n%b\r\nConnection: close\r\n\r\n" % (
        host.encode(),
        MALFORMED_HEADER,
    )
    exchange = await wire.raw_exchange(url, context, request)
    try:
        await exchange.wait(lambda: False, SECONDS)
    finally:
        await exchange.close()
    found = from_headers(exchange.headers)
    if found:
        return found
    return distinct(name for piece, name in _BY_ERROR_PAGE.items() if piece in exchange.body)


def distinct(names: Iterable[str]) -> Sequence[str]:
    """Each name once, in order. If Caddy is among them, "a proxy written in Go" is left out: Caddy is one."""
    found = tuple(dict.fromkeys(names))
    return tuple(name for name in found if name != GO) if CADDY in found else found
