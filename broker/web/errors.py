"""Errors as answers: the only place that knows their HTTP statuses (contract §5).

Each is `application/problem+json` (RFC 9457), whether a handler, the routing or the HTTP parser found the fault.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from broker.errors import BrokerError, RateLimited, TooLarge, Unauthorized, Unavailable
from broker.web.values import Answer

STATUS = {
    "invalid-topic": 400,
    "invalid-body": 400,
    "invalid-parameter": 400,
    "incomplete": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "closed": 409,
    "cancelled": 409,
    "out-of-order": 409,
    "gap": 410,
    "too-large": 413,
    "rate-limited": 429,
    "internal": 500,
    "unavailable": 503,
    "overloaded": 503,
}

DEFECT = "A defect in the broker; its log has the details."

_logger = logging.getLogger("broker")


def problem(
    code: str, detail: str, extra: dict[str, object] | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """The answer for `code`; `extra` are further members of its JSON."""
    status = STATUS[code]
    body = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **(extra or {}),
    }
    return Answer(
        status,
        json.dumps(body).encode(),
        {
            "Cache-Control": "no-store",
            "Vary": "Accept",
            "Content-Type": "application/problem+json",
            **(headers or {}),
        },
    )


def error_answer(error: Exception, method: str, path: str, request_id: str) -> Answer:
    """The answer for a handler's exception. All but a `BrokerError` are defects: they are logged, without details in the answer.

    `path` goes into the log, so it has no token.
    """
    if not isinstance(error, BrokerError):
        _logger.error(
            "defect in the handler of %s %s", method, path, exc_info=error, extra={"request_id": request_id}
        )
        return problem("internal", DEFECT)
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = challenge(error)
    if isinstance(error, RateLimited | Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    return problem(error.code, error.detail, error.extra, headers)


def challenge(error: Unauthorized) -> str:
    """The value of `WWW-Authenticate` (RFC 6750 §3)."""
    return f'Bearer error="{error.error}"' if error.error else "Bearer"


def event_too_large(max_event_bytes: int) -> TooLarge:
    """The error for an event with more than `max_event_bytes` of data."""
    return TooLarge(
        f"An event's data may have at most {max_event_bytes} bytes; send it in parts, or send a reference to it."
    )
