"""Print the topics of a broker, and how much each keeps."""

from __future__ import annotations

import argparse
import dataclasses
import json

from broker.cli import common, output
from broker.client import BlockingClient, TopicState
from broker.events import id_seconds, parse_id, rfc3339

EPILOG = """\
For each topic: how many events it keeps, their size in bytes, how many subscribers it has, whether it is open or closed, and when
its last event was published (UTC). With --json, each topic is one line:
{"topic", "subscribers", "events", "bytes", "first_id", "last_id", "closed"}.

If access is on, this needs a token with the right admin: broker token --admin

examples:
  broker topics
  broker topics --json | jq -r 'select(.subscribers > 0) | .topic'

Exit status: 0; 1 if the broker refuses or is unreachable; 2 for wrong usage.
"""

_LINE = "{events:>8}  {size:>11}  {subscribers:>11}  {state:<6}  {last:<24}  {topic}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker topics`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print each topic as one line of JSON")
    common.add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Print the topics, and return the exit status that the help describes."""

    def work(client: BlockingClient) -> None:
        for number, state in enumerate(client.topics()):
            if args.json:
                output.print_line(json.dumps(dataclasses.asdict(state)))
                continue
            if number == 0:
                output.print_line(_HEAD)
            output.print_line(_line(state))

    return common.run_requests("topics", args, work)


_HEAD = _LINE.format(
    events="EVENTS",
    size="BYTES",
    subscribers="SUBSCRIBERS",
    state="STATE",
    last="LAST EVENT",
    topic="TOPIC",
)


def _line(state: TopicState) -> str:
    last_id = parse_id(state.last_id or "")
    return _LINE.format(
        events=state.events,
        size=state.bytes,
        subscribers=state.subscribers,
        state="closed" if state.closed else "open",
        last="-" if last_id is None else rfc3339(id_seconds(last_id)),
        topic=state.topic,
    )
