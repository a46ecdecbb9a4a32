"""The command `broker`. Each subcommand is a module with the functions of `Command`.

Rules: only the requested command's module is imported, so that `broker publish` need not load the server.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn, Protocol, cast

COMMANDS = {
    "serve": "run the broker",
    "publish": "publish events to a topic",
    "subscribe": "print the events of topics as they come",
    "topics": "list the topics of a broker",
    "events": "print the events that topics still have",
    "end": "close topics",
    "cancel": "ask the producers of topics to stop",
    "delete": "delete topics and their events",
    "token": "make and explain tokens",
    "bench": "put load on an SSE server and measure it",
    "doctor": "examine the path to a broker through its proxies",
    "completion": "print a completion script for a shell",
}
INTERRUPTED = 130


class Command(Protocol):
    """A command module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int:
        """Returns the exit status."""


class _Parser(argparse.ArgumentParser):
    """A parser with error messages of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the installed version; the metadata is read only then, because that takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from broker.version import installed_version

        version = installed_version()
        if version:
            print(f"broker {version}")
        else:
            print("broker: the version is unknown, because the package is not installed")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. `argv` is by default the process's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    requested = next((word for word in words if not word.startswith("-")), None)
    try:
        parser = _make_parser([name for name in COMMANDS if name == requested])  # imports take a while
        if not words:
            parser.print_help(sys.stderr)
            return 2
        args, unknown = parser.parse_known_args(words)
        if unknown:
            _refuse_unknown(args.parser, unknown)
        status = cast("int", args.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        from broker.cli.common import silence_stdout

        silence_stdout()
        return 0


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """End with the error of the command that doesn't know these words; it names the option that is spelt most like one."""
    from difflib import get_close_matches

    option = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
    near = get_close_matches(option, re.findall(r"--[a-z0-9-]+", parser.format_usage()), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def full_parser() -> argparse.ArgumentParser:
    """The parser with the arguments of all commands. Imports all of them."""
    return _make_parser(COMMANDS)


def _make_parser(loaded: Collection[str]) -> argparse.ArgumentParser:
    """The parser; of the commands, those in `loaded` have their arguments."""
    parser = _Parser(
        prog="broker", description="Publish events to topics; browsers follow them with EventSource."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        if name in loaded:
            command = cast("Command", importlib.import_module(f"broker.cli.{name}"))
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run, parser=subparser)
    return parser
