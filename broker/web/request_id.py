"""The id by which a request is found again in logs, here and at its sender.

Rules: never made before a line or an answer needs it: most requests need none.
"""

from __future__ import annotations

import re
import secrets

from broker.traces import parse_traceparent
from broker.web.request_headers import Headers

HEADER = "X-Request-ID"
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def sent_id(headers: Headers) -> str | None:
    """The trace id of a valid `traceparent`, else a valid `X-Request-ID`, else None."""
    if "traceparent" in headers:
        trace = parse_traceparent(headers.get("traceparent"))
        if trace is not None:
            return trace.trace_id
    given = headers.get("x-request-id") if "x-request-id" in headers else None  # most have neither
    return given if given is not None and _ID.fullmatch(given) else None


def request_id(headers: Headers) -> str:
    """The id that the client sent, or a new one."""
    return sent_id(headers) or new_id()


def new_id() -> str:
    """An id for a request that was sent without one."""
    return secrets.token_hex(8)
