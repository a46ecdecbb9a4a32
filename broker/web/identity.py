"""Who sends a request, and what that caller may do.

Rules: a token comes by `Authorization: Bearer` (RFC 6750 §2.1), else by the cookie `broker_token`, else by `?access_token=`
(§2.3): the first that is there counts, and if it is bad, nothing else does. Without one a caller has what everybody may do.
A cookie also comes with what a page of somebody else's makes a browser send, so that with one POST and DELETE need an
`Origin` that is the broker's own, or allowed by name.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from broker.auth.grants import Caller, Grant
from broker.auth.tokens import UnknownKey, Verifier
from broker.errors import Forbidden
from broker.events import Clock
from broker.web.access_log import PARAMETER
from broker.web.app_keys import NODE
from broker.web.client_address import ClientAddresses
from broker.web.cors import AllowedOrigins
from broker.web.guard import is_own_origin
from broker.web.jwks import KeySet

COOKIE = "broker_token"
_SCHEME = "bearer"


class Authenticator:
    """How callers are told apart.

    Args:
        anonymous: what may be done without a token.
        verifier: of the tokens that come; None where there are no keys, and a token is nothing.
        key_set: fetches the verifier's further keys.
        origins: those whose pages may change something by a cookie.
        addresses: tells where callers are; None where nobody wants to know.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        anonymous: Grant,
        verifier: Verifier | None,
        key_set: KeySet | None,
        origins: AllowedOrigins,
        addresses: ClientAddresses | None,
        clock: Clock,
    ) -> None:
        self.key_set = key_set
        self._anybody = Caller(anonymous)
        self._addresses = addresses
        self._verifier = verifier
        self._origins = origins
        self._clock = clock

    async def caller(self, request: web.Request) -> Caller:
        """See `caller_of`."""
        token = None if self._verifier is None else self._token(request)
        if token is None or self._verifier is None:
            if self._addresses is None:
                return self._anybody
            grant = self._anybody.grant
        else:
            grant = await self._grant(self._verifier, token)
            request.app[NODE].streams.evictions.check(grant)
        return Caller(grant, "" if self._addresses is None else self._addresses.of(request))

    async def _grant(self, verifier: Verifier, token: str) -> Grant:
        try:
            return verifier.verify(token, self._clock())
        except UnknownKey:
            if self.key_set is None or not await self.key_set.refresh():
                raise
        return verifier.verify(token, self._clock())

    def _token(self, request: web.Request) -> str | None:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == _SCHEME:
            return token.strip()
        if hdrs.COOKIE in request.headers:
            cookie = request.cookies.get(COOKIE)
            if cookie is not None:
                self._check_cookie(request)
                return cookie
        return request.query.get(PARAMETER) if request.query_string else None

    def _check_cookie(self, request: web.Request) -> None:
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            return
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not (
            self._origins.name(origin) or is_own_origin(origin, request.headers.get(hdrs.HOST, ""))
        ):
            raise Forbidden(
                f"With the cookie {COOKIE} this needs an Origin that is the broker's own, or one of --cors-origins by name; "
                "programs send Authorization: Bearer."
            )


ACCESS = web.AppKey("access", Authenticator)


async def caller_of(request: web.Request) -> Caller:
    """Who is at the other end: what they may do is theirs for as long as their stream lasts.

    Raises:
        Unauthorized: a token came, and is bad.
        Forbidden: a cookie came with a request that another page may have made the browser send.
    """
    return await request.app[ACCESS].caller(request)
