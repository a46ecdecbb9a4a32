"""Print the events of topics as they come.

Rules: events go to standard output, each line at once; connection changes and gaps go to standard error. `Client` reconnects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import Callable

from broker.cli import common, output
from broker.client import Client, ClientError, Connection, End, Gap

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker subscribe`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "topics", nargs="+", type=common.topic, metavar="TOPIC", help="topics to follow, up to 32"
    )
    common.add_start(parser, "latest")
    output.add_output(parser)
    common.add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Follow the topics, and return the exit status that the help describes."""
    try:
        asyncio.run(_follow(args))
    except ClientError as error:
        common.say("subscribe", common.client_error_text(error, args.url))
        return 1
    except BrokenPipeError:
        common.silence_stdout()
    return 0


async def _follow(args: argparse.Namespace) -> None:
    print_event = output.event_printer(args.topics, as_json=args.json)
    async with Client(args.url, token=args.token) as client:
        events = client.subscribe(
            *args.topics,
            since=args.since,
            last=args.last,
            cursor=args.cursor,
            ends=True,
            on_change=_connection_printer(args.url),
        )
        _on_output_closed(events.close)
        async for event in events:
            if isinstance(event, End):
                common.say("subscribe", f"{event.topic} has ended: {event.reason}")
                continue
            if isinstance(event, Gap):
                output.say_gap("subscribe", event)
            elif event.type == "broker.cancel":
                common.say("subscribe", f"the producer of {event.topic} was asked to stop")
            print_event(event)


def _connection_printer(url: str) -> Callable[[Connection], None]:
    has_connected = has_failed = False

    def print_change(connection: Connection) -> None:
        nonlocal has_connected, has_failed
        if connection.up:
            has_connected = True
            common.say("subscribe", f"connected to {url}")
            return
        seconds = f"{connection.retry_seconds:.1f} s"
        common.say("subscribe", f"{url}: {connection.why}; next attempt in {seconds}")
        if not (has_connected or has_failed):
            common.say("subscribe", common.url_origin(url))
        has_failed = True

    return print_change


def _on_output_closed(callback: Callable[[], None]) -> None:
    """Call `callback` when the program that reads our output through a pipe exits, even without events to write."""
    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        return
    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(out)
        callback()

    with contextlib.suppress(NotImplementedError):  # Windows' loops watch no pipes
        # the writing end of a pipe becomes readable only when the reading end is closed
        loop.add_reader(out, closed)
