"""The access log: a line for each request, in the combined log format, without tokens."""

from __future__ import annotations

import logging
from datetime import datetime

from broker.web.front.exchange import Exchange
from broker.web.redaction import redact

CLIENT_LEFT = 499
"""nginx's status for a client that left before its answer."""


class AccessLog:
    """Writes to `logger`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def write(self, exchange: Exchange, status: int, size: int) -> None:
        """Log the answer to a request: its status, and the bytes of its body."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        began = datetime.fromtimestamp(exchange.started_at).astimezone()
        head = exchange.head
        target = head.target.decode("latin-1")
        get = head.headers.get
        self._logger.info(
            '%s %s "%s" %s %s "%s" "%s"',
            exchange.peer or "-",
            began.strftime("[%d/%b/%Y:%H:%M:%S %z]"),
            redact(f"{head.method} {target} HTTP/{head.version}"),
            status,
            size,
            redact(get("referer") or "-"),
            redact(get("user-agent") or "-"),
        )
