"""Authenticates requests.

Rules: a token comes by `Authorization: Bearer` (RFC 6750 §2.1), else by the cookie `broker_token`, else by `?access_token=`
(§2.3). The first one counts, even if it is bad. Without a token a caller has the anonymous grant, if the request's `Host`
allows it.
Browsers attach the cookie to requests of other sites' pages too. So with the cookie, POST and DELETE need an `Origin` that
is the broker's own or allowed by name. Any page of a sub-domain can set a cookie, so two tokens in cookies are refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Protocol

from broker.auth.grants import Caller, Grant
from broker.auth.tokens import BadClaims, UnknownKey, Verifier
from broker.errors import DenialReason, Forbidden, Unauthorized
from broker.events import Clock
from broker.node.evictions import Evictions
from broker.web.client_address import ClientAddresses
from broker.web.guard import Guard
from broker.web.request_headers import Headers
from broker.web.values import Request

COOKIE = "broker_token"
_COOKIE = re.compile(rf"(?:^|;)\s*{COOKIE}\s*=([^;]*)")
PARAMETER = "access_token"
"""The query parameter that carries a token (RFC 6750 §2.3)."""
_SCHEME = "bearer"
LOG_SECONDS = 60.0
"""How often the same fault of an issuer is logged."""

_logger = logging.getLogger("broker")


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
        guard: checks the requests without a token, and those with a cookie.
        addresses: None if no limit needs them.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        anonymous: Grant,
        verifier: Verifier | None,
        key_fetcher: KeyFetcher | None,
        evictions: Evictions,
        guard: Guard,
        addresses: ClientAddresses | None,
        clock: Clock,
    ) -> None:
        self.key_fetcher = key_fetcher
        self._anonymous = Caller(anonymous)
        self._addresses = addresses
        self._verifier = verifier
        self._evictions = evictions
        self._guard = guard
        self._clock = clock
        self._logged: dict[str, float] = {}  # details of `BadClaims`, which are few; when each was logged
        # Without a verifier, the guard has checked every request.
        self._is_mixed = verifier is not None and any((anonymous.publish, anonymous.subscribe))

    async def check_host(self, request: Request) -> None:
        """For an answer that needs no right. Raises `Forbidden` without a valid token if `Host` isn't allowed."""
        if not self._is_mixed:
            return
        try:
            await self.authenticate(request)
        except Unauthorized:
            self._guard.check_host(request.path, request.headers)

    async def authenticate(self, request: Request) -> Caller:
        """The caller of `request`.

        Raises:
            Unauthorized: the token is bad.
            Forbidden: another site's page may have caused this request.
        """
        try:
            return self.authenticate_now(request)
        except UnknownKey:
            if not await self.refresh_keys():
                raise
        return self.authenticate_now(request)

    async def refresh_keys(self) -> bool:
        """Fetch the keys again if they come from a URL and aren't fresh; returns whether they were fetched."""
        return self.key_fetcher is not None and await self.key_fetcher.refresh()

    def authenticate_now(self, request: Request) -> Caller:
        """The same with the keys that are there. Raises `UnknownKey` if fetching them again may help."""
        token = None if self._verifier is None else self._token(request)
        if token is None or self._verifier is None:
            if self._is_mixed:
                self._guard.check_host(request.path, request.headers)
            if self._addresses is None:
                return self._anonymous
            grant = self._anonymous.grant
        else:
            grant = self._verify(self._verifier, token)
            self._evictions.check(grant)
        request.caller = caller = Caller(
            grant, "" if self._addresses is None else self._addresses.of(request.headers, request.peer)
        )
        return caller

    def _verify(self, verifier: Verifier, token: str) -> Grant:
        try:
            return verifier.verify(token, self._clock())
        except BadClaims as error:
            self._log_bad_claims(error.detail)
            raise

    def _log_bad_claims(self, detail: str) -> None:
        """Warn the operator: the user of the token can't fix it."""
        now = self._clock()
        if abs(now - self._logged.get(detail, 0.0)) >= LOG_SECONDS:
            self._logged[detail] = now
            _logger.warning("refused a token with a good signature: %s", detail)

    def _token(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == _SCHEME:
            return token.strip()
        cookies = _cookies(request.headers)
        if len(cookies) > 1:
            raise Unauthorized(
                f"The request has several cookies {COOKIE}; delete those that the broker's site didn't set.",
                error="invalid_token",
                reason=DenialReason.SEVERAL_COOKIES,
            )
        if cookies:
            self._check_cookie(request.method, request.headers)
            return cookies[0]
        return request.query.get(PARAMETER)

    def _check_cookie(self, method: str, headers: Headers) -> None:
        if method in ("GET", "HEAD"):
            return
        if not (self._guard.origins.names(headers.get("origin")) or self._guard.is_own_origin(headers)):
            raise Forbidden(
                f"With the cookie {COOKIE}, this request needs an Origin that is the broker's own or that --cors-origins names; "
                "programs send Authorization: Bearer instead.",
                reason=DenialReason.COOKIE_ORIGIN,
            )


def _cookies(headers: Headers) -> Sequence[str]:
    """The first two tokens in Cookie headers (RFC 6265 §4.2), perhaps quoted.

    Searches by name, so that thousands of other cookies cost next to nothing.
    """
    if "cookie" not in headers:
        return ()
    found = []
    for cookie in _COOKIE.finditer(";".join(headers.getall("cookie"))):
        token = cookie[1].strip()
        is_quoted = len(token) > 1 and token[0] == token[-1] == '"'
        found.append(token[1:-1] if is_quoted else token)
        if len(found) > 1:
            break
    return found
