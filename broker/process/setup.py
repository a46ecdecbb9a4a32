"""The start of any process: its log and limits, and what a start returns or raises."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.descriptors import raise_limit


class StartError(Exception):
    """The operator's or the machine's fault: the broker can't start. The text is one line."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A started broker.

    Attributes:
        urls: where it listens; `unix:PATH` for a unix socket.
        store: the store's name, for the start line.
    """

    urls: Sequence[str]
    store: str


def set_up_process(log_level: str, log_format: str = "text", *, log_pid: bool = False) -> None:
    """Log to standard error, and raise the limit of file descriptors as far as allowed.

    Args:
        log_format: "text", or "json" for a JSON object a line.
        log_pid: add the process id to lines of text, to distinguish workers.
    """
    name = "%(name)s[%(process)d]" if log_pid else "%(name)s"
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s")
    )
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    raise_limit()


class JsonFormatter(logging.Formatter):
    """A log line as a JSON object: `time` (RFC 3339), `level`, `logger`, `pid`, `message`, and perhaps `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
