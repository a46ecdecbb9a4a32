"""What log records say."""

from __future__ import annotations

import logging

import pytest


def fields(record: logging.LogRecord) -> dict[str, object]:
    """What a record has besides what each has."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in vars(logging.makeLogRecord({})) and name not in ("message", "asctime")
    }


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    """The fields of the captured lines with this message."""
    return [fields(record) for record in caplog.records if record.getMessage() == message]
