"""Print the events that topics still have, and exit."""

from __future__ import annotations

import argparse

from broker.cli import common, output
from broker.client import BlockingClient, ClientError, History
from broker.client.errors import unexpected
from broker.events import parse_id

PAGE = 1000

EPILOG = """\
Events are printed oldest first, in the form of broker subscribe. Without a start and a limit, all that the topics still have.

examples:
  broker events news --json | jq .data
  broker events news --since 10m
  broker events news --before 1763791200123-0 --limit 20

Exit status: 0; 1 if the broker refuses or is unreachable; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker events`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    common.add_topics(parser, "topics to read, up to 32")
    common.add_start(parser, "earliest")
    parser.add_argument(
        "--before",
        type=common.cursor,
        metavar="ID",
        help="only events before this id: the newest ones, 100 without --limit",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="at most N events")
    output.add_output(parser)


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 1")
    return int(word)


def run(args: argparse.Namespace) -> int:
    """Print the events, and return the exit status that the help describes."""
    return common.run_requests("events", args, lambda client: _print(client, args))


def _print(client: BlockingClient, args: argparse.Namespace) -> None:
    print_event = output.event_printer(args.topics, as_json=args.json)
    since, last, cursor, left = args.since, args.last, args.cursor, args.limit
    if args.before is not None and left is None:
        left = 100
    while left is None or left > 0:
        limit = PAGE if left is None else min(left, PAGE)
        page = client.history(
            *args.topics, since=since, last=last, cursor=cursor, before=args.before, limit=limit
        )
        if page.gap is not None:
            output.say_gap("events", page.gap)
            if args.json:
                print_event(page.gap)
        for event in page.events:
            print_event(event)
        if not page.more or args.before is not None:
            return
        _check_progress(page, cursor)
        since, last, cursor = None, None, page.cursor
        left = None if left is None else left - len(page.events)


def _check_progress(page: History, cursor: str | None) -> None:
    """Raise `ClientError` if the page after `page` would be no later one: it would be asked for again and again."""
    reached, before = parse_id(page.cursor), parse_id(cursor or "")
    if not page.events or reached is None or (before is not None and reached <= before):
        raise unexpected(ClientError, "The response says that there is more, but not where")
