"""The headers of every answer: they restrict browsers, and allow some pages to read it.

Rules: the only place for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from time import time

from broker.web.cors import AllowedOrigins

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",  # does not affect pages that CORS lets in (Fetch §3.7)
}


class ResponseHeaders:
    """The headers of every answer of one application."""

    def __init__(self, origins: AllowedOrigins) -> None:
        self._origins = origins
        self._lines: dict[str, bytes] = {}  # by `vary`, for requests without an Origin

    def of(self, origin: str | None, vary: str = "") -> dict[str, str]:
        """The headers of an answer to a request from `origin`; `vary` names further headers that the answer depends on."""
        headers = SECURITY | self._origins.headers(origin)
        varies = ", ".join(name for name in (vary, headers.get("Vary", "")) if name)
        return headers | {"Vary": varies} if varies else headers

    def lines(self, origin: str | None, vary: str = "") -> bytes:
        """The same as lines of a head."""
        if origin is not None:
            return head_lines(self.of(origin, vary))
        lines = self._lines.get(vary)
        if lines is None:
            lines = self._lines[vary] = head_lines(self.of(None, vary))
        return lines


def head_lines(headers: Mapping[str, str]) -> bytes:
    """`headers` as lines of a head."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def http_date() -> bytes:
    """The present time as HTTP writes it (RFC 9110 §5.6.7)."""
    return _http_date(int(time()))


@lru_cache(maxsize=1)
def _http_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
