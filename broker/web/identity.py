"""Authenticates requests.

Rules: a token comes by `Authorization: Bearer` (RFC 6750 §2.1), else by the cookie `broker_token`, else by `?access_token=`
(§2.3). The first one counts, even if it is bad. Without a token a caller has the anonymous grant.
Browsers attach the cookie to requests of other sites' pages too. So with the cookie, POST and DELETE need an `Origin` that
is the broker's own or allowed by name.
"""

from __future__ import annotations

from typing import Protocol

from broker.auth.grants import Caller, Grant
from broker.auth.tokens import UnknownKey, Verifier
from broker.errors import Forbidden
from broker.events import Clock
from broker.node.evictions import Evictions
from broker.web.client_address import ClientAddresses
from broker.web.cors import AllowedOrigins
from broker.web.guard import is_own_origin
from broker.web.values import Headers, Request

COOKIE = "broker_token"
PARAMETER = "access_token"
"""The query parameter that carries a token (RFC 6750 §2.3)."""
_SCHEME = "bearer"


class KeyFetcher(Protocol):
    """Fetches the keys of a JWK set into the verifier."""

    @property
    def check(self) -> str:
        """`"ok"` or the failure (contract §6, readyz)."""

    async def refresh(self) -> bool:
        """Fetch the keys, unless they are fresh. Returns whether they were fetched."""


class Authenticator:
    """Finds the caller of a request.

    Args:
        anonymous: the grant without a token.
        verifier: None without keys: tokens are ignored.
        key_fetcher: gets further keys for the verifier.
        origins: those that may send a cookie with POST and DELETE.
        addresses: None if no limit needs them.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        anonymous: Grant,
        verifier: Verifier | None,
        key_fetcher: KeyFetcher | None,
        evictions: Evictions,
        origins: AllowedOrigins,
        addresses: ClientAddresses | None,
        clock: Clock,
    ) -> None:
        self.key_fetcher = key_fetcher
        self._anonymous = Caller(anonymous)
        self._addresses = addresses
        self._verifier = verifier
        self._evictions = evictions
        self._origins = origins
        self._clock = clock

    async def authenticate(self, request: Request) -> Caller:
        """The caller of `request`.

        Raises:
            Unauthorized: the token is bad.
            Forbidden: another site's page may have caused this request with a cookie.
        """
        token = None if self._verifier is None else self._token(request)
        if token is None or self._verifier is None:
            if self._addresses is None:
                return self._anonymous
            grant = self._anonymous.grant
        else:
            grant = await self._verify(self._verifier, token)
            self._evictions.check(grant)
        return Caller(grant, "" if self._addresses is None else self._addresses.of(request))

    async def _verify(self, verifier: Verifier, token: str) -> Grant:
        try:
            return verifier.verify(token, self._clock())
        except UnknownKey:
            if self.key_fetcher is None or not await self.key_fetcher.refresh():
                raise
        return verifier.verify(token, self._clock())

    def _token(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == _SCHEME:
            return token.strip()
        cookie = _cookie(request.headers.get("Cookie"))
        if cookie is not None:
            self._check_cookie(request.method, request.headers)
            return cookie
        return request.query.get(PARAMETER)

    def _check_cookie(self, method: str, headers: Headers) -> None:
        if method in ("GET", "HEAD"):
            return
        origin = headers.get("Origin")
        if origin is None or not (
            self._origins.names(origin) or is_own_origin(origin, headers.get("Host", ""))
        ):
            raise Forbidden(
                f"With the cookie {COOKIE}, this request needs an Origin that is the broker's own or that --cors-origins names; "
                "programs send Authorization: Bearer instead."
            )


def _cookie(header: str | None) -> str | None:
    """The token in a Cookie header (RFC 6265 §4.2), perhaps quoted; the last one counts."""
    found = None
    for pair in (header or "").split(";"):
        name, equals, value = pair.partition("=")
        if equals and name.strip() == COOKIE:
            found = value.strip()
            if len(found) > 1 and found[0] == found[-1] == '"':
                found = found[1:-1]
    return found
