"""Prints events: the plain form and the JSON form that `broker subscribe` and `broker events` share."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence

from broker.cli import common
from broker.client import Gap
from broker.events import Event, id_seconds, parse_id, rfc3339

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print each event as one line of JSON")


def event_printer(topics: Sequence[str], *, as_json: bool) -> Callable[[Event], None]:
    """Prints an event of `topics`: one line of JSON, or its data. With several topics, the topic and a tab come first."""
    return _print_json if as_json else _plain_printer(len(set(topics)) > 1)


def say_gap(command: str, gap: Gap) -> None:
    """Report a gap on standard error."""
    common.say(command, f"gap in {gap.topic} after {gap.after}: {gap.reason}")


def _print_json(event: Event) -> None:
    gap = isinstance(event, Gap)
    event_id = parse_id(event.id)
    value = {
        "topic": event.topic,
        "id": None if gap else event.id,
        "event": event.type,
        "time": None if gap or event_id is None else rfc3339(id_seconds(event_id)),
        "data": event.data,
    }
    line = json.dumps(value, ensure_ascii=False)
    print_line(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line))


def _plain_printer(with_topic: bool) -> Callable[[Event], None]:
    """Without control characters if it goes to a terminal."""
    terminal = sys.stdout.isatty()

    def print_event(event: Event) -> None:
        if (event.type or "").startswith("broker."):
            return
        text = _CONTROLS.sub("\ufffd", event.data) if terminal else event.data
        print_line(f"{event.topic}\t{text}" if with_topic else text)

    return print_event


def print_line(line: str) -> None:
    """Print one line at once."""
    sys.stdout.buffer.write(line.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()
