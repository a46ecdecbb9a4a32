"""Refuses requests that another site's page made a browser send (contract §5).

Cross-site request forgery: a POST or DELETE from a page of another origin is forbidden. DNS rebinding: a page could point its
own host name at the address of a broker that it can't reach otherwise, and so become a page of the broker's own origin. It
has no token. So a request without a valid token may name only hosts that no other site can own, or allowed ones.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from broker.errors import DenialReason, Forbidden
from broker.hosts import DEFAULT_PORTS, is_local, is_name, split_port
from broker.web.cors import ANY, AllowedOrigins
from broker.web.request_headers import Headers
from broker.web.values import Answer

EXEMPT = frozenset({"/healthz", "/readyz", "/metrics"})
"""Probes and scrapers may use any name."""
_CHANGING = frozenset({"POST", "DELETE", "PUT", "PATCH"})


class Guard:
    """Checks each request before its handler runs.

    Args:
        checks_host: whether no request has a valid token, but some are allowed: `check` then checks `Host`. If there are tokens
            too, the `Authenticator` calls `check_host`.
        allowed_hosts: hosts allowed without a token, as the setting has them: `name`, `name:port`, `*.name` or `*`.
        origins: those that may send POST and DELETE.
        is_https: whether every request comes by HTTPS.
        answers_preflights: whether pages of other origins get answers to preflight requests.
    """

    def __init__(
        self,
        *,
        checks_host: bool,
        allowed_hosts: Collection[str],
        origins: AllowedOrigins,
        is_https: bool = False,
        answers_preflights: bool = True,
    ) -> None:
        self.origins = origins
        self._checks_host = checks_host
        self._is_https = is_https
        self._answers_preflights = answers_preflights
        self._hosts = frozenset(allowed_hosts)
        self._suffixes = tuple(host[1:] for host in allowed_hosts if host.startswith("*."))
        self._is_allowed_host = lru_cache(maxsize=64)(self._allows_host)

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Raises `Forbidden` if `Host` or `Origin` is not allowed."""
        if self._checks_host:
            self.check_host(path, headers)
        if method in _CHANGING and ("origin" in headers or "sec-fetch-site" in headers):
            self._check_origin(headers)

    def preflight(self, headers: Headers) -> Answer | None:
        """The answer to an OPTIONS request if it is a preflight; see `AllowedOrigins.preflight`."""
        return self.origins.preflight(headers) if self._answers_preflights else None

    def check_host(self, path: str, headers: Headers) -> None:
        """Raises `Forbidden` if a request without a valid token may not have this `Host`."""
        if not self._is_allowed_host(headers.get("host", "")) and path not in EXEMPT:
            raise Forbidden(
                "Without a token, this broker answers only to addresses, local names and the names in --allowed-hosts. "
                "Use localhost or a token, or allow the name.",
                reason=DenialReason.HOST,
            )

    def is_own_origin(self, headers: Headers) -> bool:
        """Whether `Origin` is the broker. A default port is the same as none.

        If TLS ends at a proxy that doesn't say so, both schemes may be the broker's. A page of another origin can't send the
        proxy's headers.
        """
        scheme, _, origin = headers.get("origin", "").lower().partition("://")
        port = DEFAULT_PORTS.get(scheme)
        if port is None or not origin or (scheme != "https" and self._came_by_https(headers)):
            return False
        return _with_port(origin, port) == _with_port(headers.get("host", "").lower(), port)

    def _came_by_https(self, headers: Headers) -> bool:
        return (
            self._is_https
            or "https" in headers.get("x-forwarded-proto", "").lower()
            or "proto=https" in headers.get("forwarded", "").lower().replace('"', "")
        )

    def _allows_host(self, host: str) -> bool:
        host = host.lower()
        name, port = split_port(host)
        name = name.removesuffix(".")
        if not host or is_local(name) or ANY in self._hosts:
            return True
        names = (name, f"{name}:{port}")
        is_below = is_name(name) and any(each.endswith(self._suffixes) for each in names)
        return is_below or any(each in self._hosts for each in names)

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if self.origins.allows(origin):
            return
        is_foreign = origin is not None and not self.is_own_origin(headers)
        if is_foreign or headers.get("sec-fetch-site") == "cross-site":
            raise Forbidden(
                "Pages of another origin may not change anything here; allow the origin with --cors-origins.",
                reason=DenialReason.ORIGIN,
            )


def _with_port(host: str, default: str) -> tuple[str, str]:
    name, port = split_port(host)
    return name, port or default
