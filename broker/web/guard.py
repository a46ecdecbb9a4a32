"""Refuses requests that another site's page made a browser send (contract §5).

Cross-site request forgery: a POST or DELETE from a page of another origin is forbidden. DNS rebinding: a page could point its
own host name at 127.0.0.1. So while the broker is open on a loopback address, only loopback names are allowed as `Host`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from broker.errors import Forbidden
from broker.hosts import is_loopback
from broker.web.cors import AllowedOrigins
from broker.web.values import Headers

_CHANGING = frozenset({"POST", "DELETE", "PUT", "PATCH"})


class Guard:
    """Checks each request before its handler runs.

    Args:
        loopback_only: whether the broker is open on a loopback address.
        allowed_hosts: values of `Host` allowed besides loopback names, with or without a port.
        origins: those that may send POST and DELETE.
    """

    def __init__(
        self, *, loopback_only: bool, allowed_hosts: Collection[str], origins: AllowedOrigins
    ) -> None:
        self.origins = origins
        self._loopback_only = loopback_only
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._is_own_host = lru_cache(maxsize=64)(self._check_host)

    def check(self, method: str, headers: Headers) -> None:
        """Raises `Forbidden` if `Host` or `Origin` is not allowed."""
        if self._loopback_only and not self._is_own_host(headers.get("Host", "")):
            raise Forbidden(
                "This broker listens on a loopback address, and the request names another host; "
                "use localhost, or allow the name with --allowed-hosts."
            )
        if method in _CHANGING and ("Origin" in headers or "Sec-Fetch-Site" in headers):
            self._check_origin(headers)

    def _check_host(self, host: str) -> bool:
        host = host.lower()
        name = _without_port(host)
        return not name or is_loopback(name) or name in self._hosts or host in self._hosts

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("Origin")
        if self.origins.allows(origin):
            return
        is_foreign = origin is not None and not is_own_origin(origin, headers.get("Host", ""))
        if is_foreign or headers.get("Sec-Fetch-Site") == "cross-site":
            raise Forbidden(
                "Pages of another origin may not change anything here; allow the origin with --cors-origins."
            )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (not name.count(":") or name.endswith("]")) else host


def is_own_origin(origin: str, host: str) -> bool:
    """Whether `origin` is the broker, which the request calls `host`."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
