"""The format of log lines: text, or one JSON object per line.

Rules: one form for all lines of this process, those of libraries included. The fields of a record (`extra`) are members of
the object, and `name=value` behind the message in text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from broker.reports import escape

SELF_CONTAINED = "broker.access"
"""The access log: its messages have all their fields already, in the combined log format."""
STANDARD_ATTRIBUTES = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
"""A record's other attributes are its fields."""


def formatter(log_format: str, *, log_pid: bool = False) -> logging.Formatter:
    """The formatter for `log_format`, "text" or "json"; `log_pid` adds the process id to lines of text."""
    return _Json() if log_format == "json" else _Text(log_pid=log_pid)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in STANDARD_ATTRIBUTES}


class _Formatter(logging.Formatter):
    """What both formats share."""

    def _tracebacks(self, record: logging.LogRecord) -> Mapping[str, str]:
        """Those that the record has: of its `exception`, and the `stack` of the line itself."""
        found = {}
        if record.exc_info and record.exc_info[0] is not None:
            found["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            found["stack"] = self.formatStack(record.stack_info)
        return found


class _Json(_Formatter):
    """`time` (RFC 3339), `level`, `logger`, `pid`, `message`, the fields, and perhaps `exception` and `stack`."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_fields(record),
            **self._tracebacks(record),
        }
        line = json.dumps(event, ensure_ascii=False, default=str)
        return line if line.isprintable() else json.dumps(event, default=str)


class _Text(_Formatter):
    """Time, level, logger and message, then the fields, then perhaps tracebacks on lines of their own."""

    def __init__(self, *, log_pid: bool) -> None:
        super().__init__()
        self._log_pid = log_pid

    def format(self, record: logging.LogRecord) -> str:
        name = f"{record.name}[{record.process}]" if self._log_pid else record.name
        fields = "" if record.name == SELF_CONTAINED else _pairs(_fields(record))
        line = escape(f"{_time(record)} {record.levelname} {name}: {record.getMessage()}{fields}")
        below = [escape(row) for text in self._tracebacks(record).values() for row in text.split("\n")]
        return "\n".join([line, *below])


def _pairs(fields: Mapping[str, Any]) -> str:
    shown = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            shown += [f" {name}.{key}={_shown(one)}" for key, one in value.items()]
        else:
            shown.append(f" {name}={_shown(value)}")
    return "".join(shown)


def _shown(value: object) -> str:
    """The value in an unambiguous form: quoted unless it is one plain word."""
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = str(value)
    if text and not any(char.isspace() or char in "\"'=" for char in text):
        return text
    return json.dumps(text, ensure_ascii=False)
