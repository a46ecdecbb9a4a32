"""Ask the producers of topics to stop."""

from __future__ import annotations

import argparse

from broker.cli import common
from broker.client import BlockingClient

EPILOG = """\
A producer that streams into the topic is stopped at once, and the topic closes if the stream would have closed it. Subscribers
get the event broker.cancel.

example:
  broker cancel answers.7

Exit status: 0 if the broker passes it on, even without a producer; 1 if it refuses or is unreachable; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker cancel`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    common.add_topics(parser, "topics of the producers")


def run(args: argparse.Namespace) -> int:
    """Cancel, and return the exit status that the help describes."""

    def work(client: BlockingClient) -> None:
        for topic in args.topics:
            client.cancel(topic)

    return common.run_requests("cancel", args, work)
