"""The command `broker`: one command a file, joined here.

Rules: a command module has a docstring whose first line is its help, `add_arguments(parser)` and `run(args) -> int`
(the exit status). It is imported only when it is the one asked for, so that `broker publish` doesn't pay for the server.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

COMMANDS = {
    "serve": "run the broker",
    "publish": "publish events to a topic",
    "subscribe": "print the events of topics as they come",
    "token": "mint and explain tokens",
    "bench": "load an SSE server and measure it",
}


class Command(Protocol):
    """What a command module has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line; exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by `argv` (default: the process's own) and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="broker", description="Publish events to topics; follow them with EventSource.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == asked:
            command = cast("Command", importlib.import_module(f"broker.cli.{name}"))
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    args = parser.parse_args(words)
    try:
        return cast("int", args.run(args))
    except KeyboardInterrupt:
        return 130
