"""What the commands share that talk to a broker: where it is, topics, and how an error is told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from broker.client.address import DEFAULT_URL, base_url
from broker.client.words import check_cursor
from broker.errors import InvalidTopic
from broker.topics import check_topic


def add_broker(parser: argparse.ArgumentParser) -> None:
    """`--url` and `--token`, by default `BROKER_URL` and `BROKER_TOKEN` of the environment."""
    parser.add_argument(
        "--url",
        type=_argument(base_url),
        default=os.environ.get("BROKER_URL", DEFAULT_URL),
        metavar="URL",
        help=f"where the broker is (default: BROKER_URL of the environment, else {DEFAULT_URL})",
    )
    add_token(parser)


def add_token(parser: argparse.ArgumentParser) -> None:
    """`--token`, by default `BROKER_TOKEN` of the environment."""
    parser.add_argument(
        "--token",
        type=_argument(_header),
        default=os.environ.get("BROKER_TOKEN") or None,
        help="what lets you in there (default: BROKER_TOKEN of the environment, which others on the machine can't see)",
    )


def _argument(check: Callable[[str], str]) -> Callable[[str], str]:
    """`check` as the type of an argument, with its own words for what is wrong."""

    def checked(word: str) -> str:
        try:
            return check(word)
        except (ValueError, InvalidTopic) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _utf8(text: str) -> str:
    """`text` itself; a word of the command line that is no UTF-8 has become lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is no UTF-8") from None
    return text


def _header(text: str) -> str:
    """`text` itself, if it can be sent as a token."""
    if not text.isascii() or not text.isprintable() or " " in text or not text:
        raise ValueError("this is no token")
    return text


topic = _argument(check_topic)
cursor = _argument(check_cursor)
text = _argument(_utf8)
"""Types of arguments."""


def say(command: str, what: str) -> None:
    """One line on standard error, whatever `what` contains."""
    line = " ".join(what.split())
    shown = "".join(char if char.isprintable() else "?" for char in line)
    print(f"broker {command}: {shown}", file=sys.stderr, flush=True)


def silence_stdout() -> None:
    """After a broken pipe: what is still buffered for standard output goes nowhere, so that the exit is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
