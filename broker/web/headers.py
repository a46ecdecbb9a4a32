"""The headers of every answer: they restrict browsers, and allow some pages to read it.

Rules: the only place for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
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
        self._second = 0
        self._lines: dict[str, bytes] = {}  # in that second, by `vary`, for requests without an Origin

    def of(self, origin: str | None, vary: str = "") -> dict[str, str]:
        """The headers of an answer to a request from `origin`; `vary` names further headers that the answer depends on."""
        headers = SECURITY | self._origins.headers(origin)
        varies = ", ".join(name for name in (vary, headers.get("Vary", "")) if name)
        return headers | {"Vary": varies} if varies else headers

    def lines(self, origin: str | None, vary: str = "") -> bytes:
        """The same headers as lines of a head, with the date (RFC 9110 §5.6.7)."""
        if not 0 <= time() - self._second < 1:
            self._second = int(time())
            self._lines.clear()
        if origin is None and vary in self._lines:
            return self._lines[vary]
        lines = head_lines({"Date": formatdate(self._second, usegmt=True), **self.of(origin, vary)})
        if origin is None:
            self._lines[vary] = lines
        return lines


def head_lines(headers: Mapping[str, str]) -> bytes:
    """`headers` as lines of a head."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
