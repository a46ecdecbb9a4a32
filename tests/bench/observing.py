"""`python -m tests.bench.observing`: what metrics, log lines and traces cost per POST, per delivery and per new subscriber.

The same loads are put on the broker as it is, with more switched on, and without what it records (`unobserved`), one after the
other in each round. In brackets: the default broker's figure over this one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from tests.bench.peers.__main__ import Figures, machine, measured, measuring_parser
from tests.bench.peers.loads import ROWS
from tests.bench.peers.servers import Broker, Peer
from tests.bench.peers.table import markdown

LOADS = ("publish-cpu", "cpu-1000", "connect-cpu")


class Unobserved(Broker):
    """The broker without what it records, and without log lines."""

    def command(self, port: int, directory: Path) -> list[str]:
        return [sys.executable, "-m", "tests.bench.unobserved", "serve", f"--port={port}", *self.arguments]


VARIANTS: tuple[Peer, ...] = (
    Broker(),
    Unobserved("metrics and logs off", "--log-level=error"),
    Broker("access log", "--access-log"),
    Broker("access log, JSON", "--access-log", "--log-format=json"),
    Broker("trace events", "--trace-events"),
)


def main() -> int:
    """Measure, and print the table. Exit status 1 if something could not be measured."""
    args = arguments()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("observing: needs two CPUs, one for the broker and one for the load", file=sys.stderr)
        return 1
    console, figures = Console(stderr=True), Figures()
    variants = [
        one for one in VARIANTS if one.name == "broker" or not args.variants or one.name in args.variants
    ]
    problems: list[str] = []
    for row in ROWS:
        if row.name in args.only:
            seen = figures[row.name] = {}
            problems += measured(row, variants, args, (cpus[0], cpus[1]), seen, console)
    print(f"{markdown(figures, [one.name for one in variants])}\n\n{machine()}; median of {args.rounds}")
    for problem in problems:
        print(f"observing: {problem}", file=sys.stderr)
    return 1 if problems else 0


def arguments() -> argparse.Namespace:
    parser = measuring_parser("tests.bench.observing", "Measure what metrics, logs and traces cost.", LOADS)
    names = [one.name for one in VARIANTS[1:]]
    parser.add_argument(
        "--variants", nargs="+", choices=names, default=names, metavar="NAME", help="; ".join(names)
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
