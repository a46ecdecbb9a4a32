"""What every answer carries, whoever gives it: what browsers must not do with it, and which pages may read it.

Rules: the only place for such headers. Most answers get them just before aiohttp writes their head; a stream and the
answer to a publish write their own, and ask for the lines.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web

from broker.web.cors import AllowedOrigins

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",  # pages that CORS lets in are not concerned (Fetch §3.7)
}


class ResponseHeaders:
    """Those of one application."""

    def __init__(self, origins: AllowedOrigins) -> None:
        self._origins = origins
        self._plain: dict[str, bytes] = {}

    async def complete(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """For `Application.on_response_prepare`: also takes out which server, in which version, this is."""
        headers = response.headers
        headers.popall(hdrs.SERVER, None)
        headers.update(self._of(request.headers.get(hdrs.ORIGIN), headers.get(hdrs.VARY, "")))

    def lines(self, request: web.BaseRequest, vary: str = "") -> bytes:
        """The same as lines of a head that is written by hand, which varies by `vary`."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None:
            return _lines(self._of(origin, vary))
        plain = self._plain.get(vary)
        if plain is None:
            plain = self._plain[vary] = _lines(self._of(None, vary))
        return plain

    def _of(self, origin: str | None, vary: str) -> dict[str, str]:
        found = SECURITY | self._origins.headers(origin)
        varies = ", ".join(name for name in (vary, found.get(hdrs.VARY, "")) if name)
        return found | {hdrs.VARY: varies} if varies else found


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
