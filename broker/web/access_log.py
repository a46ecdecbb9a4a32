"""The access log: a line for each request, without the tokens in it.

A browser's EventSource can't send a header, so its token stands in the address. Whoever may read a log would have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from aiohttp import web
from aiohttp.web_log import AccessLogger

PARAMETER = "access_token"
"""The one that carries a token (RFC 6750 §2.3)."""

Key = str | tuple[str, str]

# Each character of the name may be percent-encoded, and means the same.
_NAME = "".join(f"(?:{re.escape(letter)}|%{ord(letter):02x})" for letter in PARAMETER)
_TOKEN = re.compile(rf"({_NAME}=)[^&#\s\"']+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with the tokens of all addresses in it blotted out."""
    return _TOKEN.sub(r"\1…", text)


class AccessLog(AccessLogger):
    """aiohttp's, in the combined log format."""

    def _format_line(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float
    ) -> Iterable[tuple[Key, str]]:
        """By name, all that goes into the line and into the record beside it."""
        for key, value in super()._format_line(request, response, time):
            yield key, redact(value) if isinstance(value, str) else value
