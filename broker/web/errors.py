"""Errors as answers: the only place that knows HTTP statuses (contract §5).

Every answer that is no success is `application/problem+json` (RFC 9457), whoever found the fault: a handler, aiohttp's
router, or its parser.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from broker.errors import BrokerError, RateLimited, Unauthorized, Unavailable
from broker.web import handover
from broker.web.app_keys import NODE

STATUS = {
    "invalid-topic": 400,
    "invalid-body": 400,
    "invalid-parameter": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "closed": 409,
    "cancelled": 409,
    "out-of-order": 409,
    "too-large": 413,
    "rate-limited": 429,
    "internal": 500,
    "unavailable": 503,
    "overloaded": 503,
}

_logger = logging.getLogger("broker")


def problem(code: str, detail: str, extra: dict[str, object] | None = None) -> web.Response:
    """The answer for `code`; `extra` are members beside the standard ones."""
    status = STATUS[code]
    body = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **(extra or {}),
    }
    return web.Response(
        status=status,
        body=json.dumps(body).encode(),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", "Vary": "Accept"},
    )


def answer(error: BrokerError) -> web.Response:
    """The answer for an error."""
    response = problem(error.code, error.detail, error.extra)
    if isinstance(error, Unauthorized):
        response.headers[hdrs.WWW_AUTHENTICATE] = challenge(error)
    if isinstance(error, RateLimited | Unavailable):
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after)
    return response


def challenge(error: Unauthorized) -> str:
    """The value of `WWW-Authenticate` (RFC 6750 §3): a token is asked for, and what was wrong with the one that came."""
    return f'Bearer error="{error.error}"' if error.error else "Bearer"


def _routing(error: web.HTTPException, request: web.Request) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return problem("not-found", "There is nothing at this path; topics are at /topics/{topic}.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        response = problem("method-not-allowed", f"This path takes {allowed}.")
        response.headers[hdrs.ALLOW] = allowed
        return response
    raise AssertionError(f"unexpected {error.status} for {request.method}")


@web.middleware
async def errors_to_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: whatever goes wrong leaves as a problem, and a defect tells nothing of the inside."""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except BrokerError as error:
        response = answer(error)
    except web.HTTPException as error:
        response = _routing(error, request)
    except ConnectionError:  # the other side has left; there is nobody to answer
        return handover.leave(request)
    except Exception:
        _logger.exception("defect in the handler of %s %s", request.method, request.rel_url.raw_path[:200])
        response = problem("internal", "The broker has a defect here; its log says more.")
    is_cut = not request.content.is_eof() or request.content.exception() is not None
    if (
        is_cut or request.app[NODE].streams.is_draining
    ):  # who keeps a connection to a broker that goes would lose its next request
        response.force_close()
    return response
