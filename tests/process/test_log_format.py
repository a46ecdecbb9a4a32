"""The form of log lines."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from broker.process.log_format import formatter


def record(message: str, *args: object, name: str = "broker", **fields: object) -> logging.LogRecord:
    """A record as `logging` makes it."""
    return logging.getLogger(name).makeRecord(
        name, logging.INFO, "", 1, message, args, None, extra=fields or None
    )


def test_json_has_the_fields_as_members() -> None:
    line = json.loads(formatter("json").format(record("stream closed", topics=("a", "b"), age=1.5, gap="ü")))
    assert list(line) == ["time", "level", "logger", "pid", "message", "topics", "age", "gap"]
    assert (line["level"], line["logger"], line["message"]) == ("info", "broker", "stream closed")
    assert (line["topics"], line["age"], line["gap"]) == (["a", "b"], 1.5, "ü")


def test_text_has_them_behind_the_message() -> None:
    text = formatter("text").format(
        record(
            "stream closed",
            topics=("a", "b"),
            age=1.5,
            why="no such thing",
            settings={"port": 1, "host": "a b"},
        )
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 INFO broker: stream closed topics=a,b age=1\.5 "
        r'why="no such thing" settings\.port=1 settings\.host="a b"',
        text,
    )


def test_text_can_name_the_process() -> None:
    made = record("x")
    assert f"broker[{made.process}]: x" in formatter("text", log_pid=True).format(made)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "hostile", ["a\nb", "\x1b[2J", "\x9b31m", "\u2028", "\r", "\ud800", "\u202e", '"x=y']
)
def test_nothing_forges_a_line_or_reaches_a_terminal(log_format: str, hostile: str) -> None:
    """In the message, in a field and in a library's record."""
    form = formatter(log_format)
    for made in (record(f"x{hostile}"), record("x", field=hostile), record("%s", hostile, name="redis")):
        assert form.format(made).isprintable()
        assert "%s" not in form.format(made)
    if log_format == "json":
        assert json.loads(form.format(record("x", field=hostile)))["field"] == hostile


def test_a_field_can_not_be_forged_by_a_value() -> None:
    assert 'subject="x address=1.2.3.4"' in formatter("text").format(record("m", subject="x address=1.2.3.4"))


def test_the_access_log_has_its_own_form_in_text() -> None:
    made = record('1.2.3.4 "GET / HTTP/1.1" 200', name="broker.access", status=200)
    assert formatter("text").format(made).endswith('"GET / HTTP/1.1" 200')
    assert json.loads(formatter("json").format(made))["status"] == 200


def test_tracebacks() -> None:
    """On one line as JSON, on lines of their own as text."""
    try:
        raise ValueError("bad\nluck \u2028\x1b")
    except ValueError:
        made = logging.LogRecord("broker", logging.ERROR, "", 1, "a %s: %s", ("defect", "ü"), sys.exc_info())
    text = formatter("json").format(made)
    assert text.isprintable()
    line = json.loads(text)
    assert (line["message"], line["level"]) == ("a defect: ü", "error")
    assert "ValueError: bad\nluck" in line["exception"]
    first, *others = formatter("text").format(made).split("\n")
    assert first.endswith("ERROR broker: a defect: ü")
    assert others[0] == "Traceback (most recent call last):"
    assert all(other.isprintable() for other in others)


def test_the_stack_of_a_line() -> None:
    """aiohttp's warning of a loop that reads on and on has nothing else that tells where."""
    made = record("read on and on")
    made.stack_info = "Stack (most recent call last):\n  in \x1bread"
    assert json.loads(formatter("json").format(made))["stack"] == made.stack_info
    assert formatter("text").format(made).split("\n")[1:] == [
        "Stack (most recent call last):",
        "  in \\x1bread",
    ]
