"""Answers to requests that fail, and their log lines.

Rules: the one place that sees every refused request, whichever adapter serves it. Lines never contain a token, and of a body nothing
at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from broker.errors import BrokerError, Forbidden, Unauthorized, Unavailable
from broker.reports import Reporter
from broker.web.client_address import ClientAddresses
from broker.web.errors import error_answer
from broker.web.redaction import redact
from broker.web.request_headers import Headers
from broker.web.request_id import HEADER, request_id
from broker.web.request_measures import RequestMeasures, RouteMeasure
from broker.web.values import Answer, Request

MAX_CHARS = 200
"""Of a path or a detail in a line."""
_CHANGING = frozenset({"POST", "DELETE"})
_LOGGED_EXTRA = ("limit", "line", "published", "expected", "topics", "parameter")
"""The members of an error's answer that its line has too: numbers and names, nothing of a body."""


class Refusals:
    """Makes the answers to errors.

    Args:
        addresses: finds the client behind proxies.
    """

    def __init__(self, reporter: Reporter, addresses: ClientAddresses, measures: RequestMeasures) -> None:
        self._measures = measures
        self._reporter = reporter
        self._addresses = addresses

    def answer(
        self,
        error: Exception,
        method: str,
        target: str,
        headers: Headers,
        peer: str,
        request: Request | None,
        measure: RouteMeasure,
    ) -> Answer:
        """The answer for `error`, which the handling of a request raised; `request` if there was one yet. It counts and logs the refusal.

        The answer has the request's id, so that a client can name it.
        """
        self._measures.failed(measure, error)
        used_id = request_id(headers)
        path = redact(target.partition("?")[0])[:MAX_CHARS]
        answer = error_answer(error, method, path, used_id)
        answer.headers = {**answer.headers, HEADER: used_id}
        if isinstance(error, BrokerError):
            caller = None if request is None else request.caller
            fields = {
                "method": method,
                "path": path,
                "subject": None if caller is None else caller.grant.subject,
                "address": self._addresses.client(headers, peer),
                "request_id": used_id,
            }
            self._log(error, answer.status, method, path, fields)
        return answer

    def _log(
        self, error: BrokerError, status: int, method: str, path: str, fields: Mapping[str, object]
    ) -> None:
        if isinstance(error, Unauthorized | Forbidden):
            self._reporter.report(
                logging.INFO,
                "access denied",
                error.reason,
                status=status,
                why=error.detail[:MAX_CHARS],
                **fields,
            )
        elif method in _CHANGING:
            message = "publish refused" if "/topics" in path and method == "POST" else "request refused"
            level = logging.WARNING if isinstance(error, Unavailable) else logging.INFO
            extra = {name: error.extra[name] for name in _LOGGED_EXTRA if name in error.extra}
            self._reporter.report(level, message, error.code, status=status, **extra, **fields)
