"""The id by which a request is found again in logs, here and at its sender.

Rules: never made before a line or an answer needs it: most requests need none.
"""

from __future__ import annotations

import re
import secrets

from broker.web.request_headers import Headers

HEADER = "X-Request-ID"
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
"""W3C Trace Context §3.2. A later version may append fields; version 00 is exactly this long."""
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
MAX_TRACEPARENT_CHARS = 128


def sent_id(headers: Headers) -> str | None:
    """The trace id of a valid `traceparent`, else a valid `X-Request-ID`, else None."""
    trace = headers.get("traceparent")
    if trace is not None and len(trace) <= MAX_TRACEPARENT_CHARS:
        found = _TRACEPARENT.fullmatch(trace.strip())
        if found is not None and (found[2] is None or not trace.startswith("00")):
            return found[1]
    given = headers.get("x-request-id")
    return given if given is not None and _ID.fullmatch(given) else None


def request_id(headers: Headers) -> str:
    """The id that the client sent, or a new one."""
    return sent_id(headers) or secrets.token_hex(8)
