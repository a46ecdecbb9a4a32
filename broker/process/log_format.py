"""The format of log lines: text, or one JSON object per line.

Rules: one form for all lines of this process, those of libraries included. The fields of a record (`extra`) are members of
the object, and `name=value` behind the message in text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter

from broker.reports import escape

SELF_CONTAINED = "broker.access"
"""The access log: its messages have all their fields already, in the combined log format."""

_Event = MutableMapping[str, Any]


def formatter(log_format: str, *, log_pid: bool = False) -> logging.Formatter:
    """The formatter for `log_format`, "text" or "json"; `log_pid` adds the process id to lines of text."""
    is_json = log_format == "json"
    renderer = _Json() if is_json else _Text(log_pid=log_pid)
    return ProcessorFormatter(
        foreign_pre_chain=[_describe, ExtraAdder()],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )


def _describe(_logger: object, _method: str, event: _Event) -> _Event:
    """What each line begins with."""
    record: logging.LogRecord = event["_record"]
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "pid": record.process,
        "message": event["event"],
        **{name: value for name, value in event.items() if name != "event"},
    }


class _Json:
    """`time` (RFC 3339), `level`, `logger`, `pid`, `message`, the fields, and perhaps `exception`."""

    def __call__(self, _logger: object, _method: str, event: _Event) -> str:
        line = json.dumps(event, ensure_ascii=False, default=str)
        return line if line.isprintable() else json.dumps(event, default=str)


class _Text:
    """Time, level, logger and message, then the fields, then perhaps a traceback on lines of its own."""

    def __init__(self, *, log_pid: bool) -> None:
        self._log_pid = log_pid

    def __call__(self, _logger: object, _method: str, event: _Event) -> str:
        time, level, logger, pid, message = (
            event.pop(name) for name in ("time", "level", "logger", "pid", "message")
        )
        exception = event.pop("exception", None)
        name = f"{logger}[{pid}]" if self._log_pid else logger
        fields = "" if logger == SELF_CONTAINED else _pairs(event)
        line = escape(f"{time} {level.upper()} {name}: {message}{fields}")
        return line if exception is None else "\n".join([line, *map(escape, exception.split("\n"))])


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
