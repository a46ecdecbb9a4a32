"""The access log: a line for each request, in the combined log format, without tokens."""

from __future__ import annotations

import logging
from datetime import datetime

from broker.reports import escape
from broker.web.front.exchange import Exchange
from broker.web.redaction import redact
from broker.web.request_id import sent_id


class AccessLog:
    """Writes to `logger`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._second, self._time = -1, ""  # a second's requests share the text of its time

    def write(self, exchange: Exchange, status: int, size: int) -> None:
        """Log the answer to a request: its status, and the bytes of its body."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        head = exchange.head
        get = head.headers.get
        target = redact(head.target.decode("latin-1"))
        referer, user_agent = redact(get("referer") or ""), redact(get("user-agent") or "")
        fields: dict[str, object] = {
            "address": exchange.peer,
            "method": head.method,
            "target": target,
            "http": head.version,
            "status": status,
            "bytes": size,
            "referer": referer,
            "user_agent": user_agent,
            "request_id": sent_id(head.headers),
        }
        self._logger.info(
            '%s %s "%s" %s %s "%s" "%s"',
            exchange.peer or "-",
            self._time_of(int(exchange.started_at)),
            _quotable(f"{head.method} {target} HTTP/{head.version}"),
            status,
            size,
            _quotable(referer or "-"),
            _quotable(user_agent or "-"),
            extra={name: value for name, value in fields.items() if value not in ("", None)},
        )

    def _time_of(self, second: int) -> str:
        if second != self._second:
            began = datetime.fromtimestamp(second).astimezone()
            self._second, self._time = second, began.strftime("[%d/%b/%Y:%H:%M:%S %z]")
        return self._time


def _quotable(text: str) -> str:
    """`text` for between quotes: a client must not end them, nor the line."""
    return escape(text.replace("\\", "\\\\").replace('"', '\\"'))
