"""Close topics."""

from __future__ import annotations

import argparse

from broker.cli import common
from broker.client import BlockingClient

EPILOG = """\
Subscribers learn of the end and its reason, and further events are refused until the topic is deleted. A topic that is closed
stays as it is. To close a topic together with a last event, use broker publish --end.

examples:
  broker end answers.7
  broker end jobs.41 jobs.42 --reason failed

Exit status: 0; 1 if the broker refuses or is unreachable, and the topics that follow stay open; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker end`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    common.add_topics(parser, "topics to close")
    parser.add_argument(
        "--reason",
        type=common.text,
        metavar="WORD",
        help="why they end: small letters, digits and - (default: closed)",
    )


def run(args: argparse.Namespace) -> int:
    """Close the topics, and return the exit status that the help describes."""

    def work(client: BlockingClient) -> None:
        for topic in args.topics:
            client.end(topic, args.reason)

    return common.run_requests("end", args, work)
