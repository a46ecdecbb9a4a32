"""How events are printed: a publisher must not reach the terminal of their reader."""

from __future__ import annotations

import json

import pytest

from broker.cli.output import event_printer
from broker.events import Event

HOSTILE = "\x1b[2J\x9b31m\x7f\u2028é"


def test_json_has_no_control_characters(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """JSON itself escapes those below U+0020 only; U+009B begins a control sequence too."""
    event_printer(["a"], as_json=True)(Event(data=HOSTILE, type="x\x9b", id="1-0", topic="a"))
    line = capfdbinary.readouterr().out.decode()
    assert not {char for char in line[:-1] if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0}
    assert "é" in line
    value = json.loads(line)
    assert (value["data"], value["event"]) == (HOSTILE, "x\x9b")


def test_the_plain_form_is_as_it_is_where_no_terminal_reads_it(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    event_printer(["a"], as_json=False)(Event(data=HOSTILE, id="1-0", topic="a"))
    assert capfdbinary.readouterr().out.decode() == f"{HOSTILE}\n"
