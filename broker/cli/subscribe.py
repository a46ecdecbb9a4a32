"""Print the events of topics as they come, for as long as it takes.

Rules: events to standard output, each line flushed; what happens to the connection, and gaps, to standard error. The
client reconnects by cursor; nothing about that is here.
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

from broker.cli import remote
from broker.client import Client, ClientError, Connection, Gap
from broker.events import Event, id_seconds, parse_id, rfc3339

EPILOG = """\
An event is printed as its data; of several topics, behind its topic and a tab. With --json each event is one line,
{"topic", "id", "event", "time", "data"}; a gap is one too, whose event is broker.gap, and whose data is the broker's JSON.

When the connection is cut it goes on by cursor: what the broker still keeps comes, once and in order, and where something is
missing the gap is told.

examples:
  broker subscribe news
  broker subscribe orders stock --since 10m --json | jq .data

Exit status: 0 when all topics have ended, or nobody reads the output any more; 1 where the broker refuses for good; 2 for
wrong usage.
"""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `broker subscribe`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "topics", nargs="+", type=remote.topic, metavar="TOPIC", help="what to follow, up to 32"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--since",
        type=remote.text,
        metavar="WHEN",
        help="an id, earliest, latest, an RFC 3339 time, or an age such as 90s, 10m, 2h (default: latest)",
    )
    start.add_argument("--last", type=int, metavar="N", help="begin N events back in each topic")
    start.add_argument(
        "--cursor",
        type=remote.cursor,
        metavar="ID",
        help="go on behind this event; a gap is told where something is missing",
    )
    parser.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    remote.add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Follow the topics. The exit status is that of the help."""
    try:
        asyncio.run(_follow(args))
    except ClientError as error:
        remote.say("subscribe", str(error))
        return 1
    except BrokenPipeError:
        remote.silence_stdout()
    return 0


async def _follow(args: argparse.Namespace) -> None:
    write = _write_json if args.json else _plain_writer(len(set(args.topics)) > 1)
    async with Client(args.url, token=args.token) as client:
        events = client.subscribe(
            *args.topics, since=args.since, last=args.last, cursor=args.cursor, on_change=_tell(args.url)
        )
        _at_hangup(events.close)
        async for event in events:
            if isinstance(event, Gap):
                remote.say("subscribe", f"gap in {event.topic} after {event.after}: {event.reason}")
            elif event.type == "broker.cancel":
                remote.say("subscribe", f"the producer of {event.topic} was asked to stop")
            write(event)
        for topic, reason in events.ended.items():
            remote.say("subscribe", f"{topic} has ended: {reason}")


def _tell(url: str) -> Callable[[Connection], None]:
    def tell(connection: Connection) -> None:
        if connection.up:
            remote.say("subscribe", f"connected to {url}")
        else:
            remote.say("subscribe", f"{connection.why}; again in {connection.retry_seconds:.1f} s")

    return tell


def _write_json(event: Event) -> None:
    gap = isinstance(event, Gap)
    known = parse_id(event.id)
    value = {
        "topic": event.topic,
        "id": None if gap else event.id,
        "event": event.type,
        "time": None if gap or known is None else rfc3339(id_seconds(known)),
        "data": event.data,
    }
    _write(json.dumps(value, ensure_ascii=False))


def _plain_writer(named: bool) -> Callable[[Event], None]:
    """Data alone, or behind its topic; a terminal isn't shown the control characters in it."""
    terminal = sys.stdout.isatty()

    def write(event: Event) -> None:
        if (event.type or "").startswith("broker."):
            return
        text = _CONTROLS.sub("\ufffd", event.data) if terminal else event.data
        _write(f"{event.topic}\t{text}" if named else text)

    return write


def _write(line: str) -> None:
    sys.stdout.buffer.write(line.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


def _at_hangup(call: Callable[[], None]) -> None:
    """Call once nobody reads standard output any more, be there something to write or not."""
    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        return
    loop = asyncio.get_running_loop()

    def hung_up() -> None:  # a pipe's writing end is readable only in this sense
        loop.remove_reader(out)
        call()

    loop.add_reader(out, hung_up)
