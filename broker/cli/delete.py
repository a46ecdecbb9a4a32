"""Delete topics: their events are removed, and their names can be used again."""

from __future__ import annotations

import argparse
import sys

from broker.cli import common
from broker.client import BlockingClient

EPILOG = """\
Subscribers learn that the topic has ended as deleted. The events can't be brought back. On a terminal, it asks first.

If access is on, this needs a token with the right admin: broker token --admin

examples:
  broker delete answers.7
  broker topics --json | jq -r 'select(.closed) | .topic' | xargs -r broker delete --yes

Exit status: 0; 1 if you answer no, or the broker refuses or is unreachable; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker delete`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    common.add_topics(parser, "topics to delete")
    parser.add_argument("--yes", "-y", action="store_true", help="don't ask")


def run(args: argparse.Namespace) -> int:
    """Delete the topics, and return the exit status that the help describes."""
    if not (args.yes or _confirmed(args)):
        common.say("delete", "nothing was deleted")
        return 1

    def work(client: BlockingClient) -> None:
        for topic in args.topics:
            client.delete(topic)

    return common.run_requests("delete", args, work)


def _confirmed(args: argparse.Namespace) -> bool:
    """Ask, if standard input is a terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        return True
    names = ", ".join(args.topics) if len(args.topics) <= 5 else f"{len(args.topics)} topics"
    print(f"Delete all events of {names} at {args.url}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
