"""What several commands share: options, types of arguments, messages."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.client.address import DEFAULT_URL, base_url
from broker.client.errors import UNREACHABLE, ClientError
from broker.client.types import check_cursor
from broker.errors import InvalidTopic
from broker.topics import check_topic

if TYPE_CHECKING:
    from pydantic import ValidationError


def default_url() -> str:
    """The URL in `BROKER_URL`; else this machine, with the port and path of a `broker serve` in this environment.

    They are in `BROKER_PORT` and `BROKER_BASE_PATH`.
    """
    if url := os.environ.get("BROKER_URL"):
        return url
    port, path = os.environ.get("BROKER_PORT", ""), os.environ.get("BROKER_BASE_PATH", "").rstrip("/")
    address = f"http://127.0.0.1:{port}" if port.isascii() and port.isdigit() else DEFAULT_URL
    return address + path


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--token`."""
    parser.add_argument(
        "--url",
        type=_argument(base_url),
        default=default_url(),
        metavar="URL",
        help="URL of the broker (default: BROKER_URL from the environment, else 127.0.0.1 with BROKER_PORT and "
        f"BROKER_BASE_PATH, else {DEFAULT_URL})",
    )
    add_token(parser)


def add_token(parser: argparse.ArgumentParser) -> None:
    """Add `--token`."""
    parser.add_argument(
        "--token",
        type=_argument(_header),
        default=os.environ.get("BROKER_TOKEN") or None,
        help="bearer token (default: BROKER_TOKEN from the environment, invisible to other users)",
    )


def _argument(check: Callable[[str], str]) -> Callable[[str], str]:
    """`check` as the type of an argument; its error text becomes the parser's."""

    def checked(word: str) -> str:
        try:
            return check(word)
        except (ValueError, InvalidTopic) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _utf8(text: str) -> str:
    """Refuse bytes that are not UTF-8; Python passes them to the program as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not UTF-8") from None
    return text


def _header(text: str) -> str:
    """Refuse a token that no header can carry; the message omits it."""
    if not text.isascii() or not text.isprintable() or " " in text or not text:
        raise ValueError("this is not a token")
    return text


topic = _argument(check_topic)
cursor = _argument(check_cursor)
broker_url = _argument(base_url)
text = _argument(_utf8)
"""Types of arguments."""


def say(command: str, message: str) -> None:
    """Print one line to standard error, without control characters."""
    line = " ".join(message.split())
    shown = "".join(char if char.isprintable() else "?" for char in line)
    print(f"broker {command}: {shown}", file=sys.stderr, flush=True)


def client_error_text(error: ClientError) -> str:
    """The message for an error of the client. If the broker is unreachable, it says how to name another URL."""
    hint = "; is this the broker's URL? Set it with --url or BROKER_URL" if error.code == UNREACHABLE else ""
    return f"{error}{hint}"


def setting_error_text(error: ValidationError) -> str:
    """The name of the first invalid setting, the key in it, and the problem. The text of a secret isn't shown."""
    first = error.errors()[0]
    name, *keys = (str(part) for part in first["loc"] if isinstance(part, str)) if first["loc"] else ("",)
    message = str(first["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    given = (
        "" if name == "jwt_secrets" or repr(first["input"]) in message else f" (given: {first['input']!r})"
    )
    return f"{': '.join((name, *keys))}: {message}{given}"


def silence_stdout() -> None:
    """Discard output that is still buffered after a broken pipe; else Python prints an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
