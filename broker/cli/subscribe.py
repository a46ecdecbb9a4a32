"""Print the events of topics as they come.

Rules: events go to standard output, each line at once; connection changes and gaps go to standard error. `Client` reconnects.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import stat
import sys
from collections.abc import Callable

from broker.cli import common
from broker.client import Client, ClientError, Connection, Gap
from broker.events import Event, id_seconds, parse_id, rfc3339

EPILOG = """\
An event is printed as its data; with several topics, its topic and a tab come first. With --json, each event is one line:
{"topic", "id", "event", "time", "data"}. A gap is such a line too: its event is broker.gap, its data is the broker's JSON.

After a lost connection it continues after the last event. Events that the broker still keeps come once and in order; if some
are missing, the gap is printed.

examples:
  broker subscribe news
  broker subscribe orders stock --since 10m --json | jq .data

Exit status: 0 when all topics have ended, or when the program that reads the output has exited; 1 if the broker refuses; 2 for
wrong usage.
"""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker subscribe`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "topics", nargs="+", type=common.topic, metavar="TOPIC", help="topics to follow, up to 32"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--since",
        type=common.text,
        metavar="WHEN",
        help="start: an id, earliest, latest, an RFC 3339 time, or an age such as 90s, 10m or 2h (default: latest)",
    )
    start.add_argument("--last", type=int, metavar="N", help="start with the last N events of each topic")
    start.add_argument(
        "--cursor",
        type=common.cursor,
        metavar="ID",
        help="start after the event with this id; print a gap if events are missing",
    )
    parser.add_argument("--json", action="store_true", help="print each event as one line of JSON")
    common.add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Follow the topics, and return the exit status that the help describes."""
    try:
        asyncio.run(_follow(args))
    except ClientError as error:
        common.say("subscribe", common.client_error_text(error))
        return 1
    except BrokenPipeError:
        common.silence_stdout()
    return 0


async def _follow(args: argparse.Namespace) -> None:
    write = _write_json if args.json else _plain_writer(len(set(args.topics)) > 1)
    async with Client(args.url, token=args.token) as client:
        events = client.subscribe(
            *args.topics,
            since=args.since,
            last=args.last,
            cursor=args.cursor,
            on_change=_connection_printer(args.url),
        )
        _on_output_closed(events.close)
        async for event in events:
            if isinstance(event, Gap):
                common.say("subscribe", f"gap in {event.topic} after {event.after}: {event.reason}")
            elif event.type == "broker.cancel":
                common.say("subscribe", f"the producer of {event.topic} was asked to stop")
            write(event)
        for topic, reason in events.ended.items():
            common.say("subscribe", f"{topic} has ended: {reason}")


def _connection_printer(url: str) -> Callable[[Connection], None]:
    def print_change(connection: Connection) -> None:
        if connection.up:
            common.say("subscribe", f"connected to {url}")
        else:
            common.say(
                "subscribe", f"{url}: {connection.why}; next attempt in {connection.retry_seconds:.1f} s"
            )

    return print_change


def _write_json(event: Event) -> None:
    gap = isinstance(event, Gap)
    event_id = parse_id(event.id)
    value = {
        "topic": event.topic,
        "id": None if gap else event.id,
        "event": event.type,
        "time": None if gap or event_id is None else rfc3339(id_seconds(event_id)),
        "data": event.data,
    }
    _write(json.dumps(value, ensure_ascii=False))


def _plain_writer(with_topic: bool) -> Callable[[Event], None]:
    """Prints an event's data, without control characters if it goes to a terminal."""
    terminal = sys.stdout.isatty()

    def write(event: Event) -> None:
        if (event.type or "").startswith("broker."):
            return
        text = _CONTROLS.sub("\ufffd", event.data) if terminal else event.data
        _write(f"{event.topic}\t{text}" if with_topic else text)

    return write


def _write(line: str) -> None:
    sys.stdout.buffer.write(line.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


def _on_output_closed(callback: Callable[[], None]) -> None:
    """Call `callback` when the program that reads our output through a pipe exits, even without events to write."""
    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        return
    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(out)
        callback()

    loop.add_reader(
        out, closed
    )  # the writing end of a pipe becomes readable only when the reading end is closed
