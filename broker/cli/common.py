"""What several commands share: options, types of arguments, messages."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

from broker.client import BlockingClient
from broker.client.address import DEFAULT_URL, base_url
from broker.client.errors import UNEXPECTED, UNREACHABLE, ClientError
from broker.client.types import check_cursor
from broker.errors import InvalidTopic
from broker.topics import check_topic

if TYPE_CHECKING:
    from pydantic import ValidationError

DEFAULT = "the default"
_BY_A_WRONG_URL = frozenset({UNREACHABLE, UNEXPECTED, "not-found", "unauthorized"})
"""Codes of errors that a wrong URL can cause."""

_Str = TypeVar("_Str", bound=str)


class BrokerUrl(str):
    """The URL of a broker.

    Attributes:
        source: where it comes from: `--url`, the environment variable, or "the default".
    """

    __slots__ = ("source",)
    source: str

    @classmethod
    def of(cls, url: str, source: str) -> Self:
        made = cls(url)
        made.source = source
        return made


def default_url() -> BrokerUrl:
    """The URL in `BROKER_URL`; else this machine, with the port and path of a `broker serve` in this environment.

    They are in `BROKER_PORT` and `BROKER_BASE_PATH`.
    """
    if url := os.environ.get("BROKER_URL"):
        return BrokerUrl.of(url, "BROKER_URL")
    port, path = os.environ.get("BROKER_PORT", ""), os.environ.get("BROKER_BASE_PATH", "").rstrip("/")
    has_port = port.isascii() and port.isdigit()
    sources = [name for name, used in (("BROKER_PORT", has_port), ("BROKER_BASE_PATH", path)) if used]
    address = f"http://127.0.0.1:{port}" if has_port else DEFAULT_URL
    return BrokerUrl.of(address + path, " and ".join(sources) or DEFAULT)


def _checked_url(word: str) -> BrokerUrl:
    """The URL of an argument, or the default that argparse passes like one."""
    source = word.source if isinstance(word, BrokerUrl) else "--url"
    try:
        return BrokerUrl.of(base_url(word), source)
    except ValueError as error:
        raise ValueError(str(error) if source == "--url" else f"{error} (from {source})") from None


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--token`."""
    parser.add_argument(
        "--url",
        type=broker_url,
        default=default_url(),
        metavar="URL",
        help="URL of the broker (default: BROKER_URL from the environment, else 127.0.0.1 with BROKER_PORT and "
        f"BROKER_BASE_PATH, else {DEFAULT_URL})",
    )
    add_token(parser)


def add_start(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--since`, `--last` and `--cursor`, of which one may be given."""
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--since",
        type=text,
        metavar="WHEN",
        help="start: an id, earliest, latest, an RFC 3339 time, or an age such as 90s, 10m or 2h "
        f"(default: {default})",
    )
    start.add_argument("--last", type=int, metavar="N", help="start with the last N events of each topic")
    start.add_argument(
        "--cursor",
        type=cursor,
        metavar="ID",
        help="start after the event with this id; print a gap if events are missing",
    )


def add_topics(parser: argparse.ArgumentParser, what: str) -> None:
    """Add one or more topics, and the broker's URL and token. `what` says what becomes of the topics."""
    parser.add_argument("topics", nargs="+", type=topic, metavar="TOPIC", help=what)
    add_broker(parser)


def add_token(parser: argparse.ArgumentParser) -> None:
    """Add `--token`."""
    parser.add_argument(
        "--token",
        type=_argument(_header),
        default=os.environ.get("BROKER_TOKEN") or None,
        help="bearer token (default: BROKER_TOKEN from the environment, invisible to other users)",
    )


def _argument(check: Callable[[str], _Str]) -> Callable[[str], _Str]:
    """`check` as the type of an argument; its error text becomes the parser's."""

    def checked(word: str) -> _Str:
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
broker_url = _argument(_checked_url)
text = _argument(_utf8)
"""Types of arguments."""


def say(command: str, message: str) -> None:
    """Print one line to standard error, without control characters."""
    line = " ".join(message.split())
    shown = "".join(char if char.isprintable() else "?" for char in line)
    print(f"broker {command}: {shown}", file=sys.stderr, flush=True)


def client_error_text(error: ClientError, url: str) -> str:
    """The message for an error of the client. If `url` may be the wrong one, it says where the URL comes from."""
    origin = url_origin(url) if error.code in _BY_A_WRONG_URL else ""
    return f"{error}; {origin}" if origin else str(error)


def url_origin(url: str) -> str:
    """Where `url` comes from, for a message; empty if that is unknown."""
    if not isinstance(url, BrokerUrl):
        return ""
    if url.source == DEFAULT:
        return f"the URL {url} is the default; set another with --url or BROKER_URL"
    return f"the URL {url} comes from {url.source}"


def setting_error_text(error: ValidationError) -> str:
    """The name of the first invalid setting, the key in it, the problem, and the environment variable that has the value.

    The text of a secret isn't shown.
    """
    first = error.errors()[0]
    name, *keys = (str(part) for part in first["loc"] if isinstance(part, str)) if first["loc"] else ("",)
    message = str(first["msg"]).removeprefix("Value error, ").replace("Input should", "must", 1)
    message = message.partition(", unable to parse")[0]
    if not name:
        return message
    shown = name != "jwt_secrets" and repr(first["input"]) not in message
    variable = f"BROKER_{name.upper()}"
    is_variable = name != "jwt_secrets" and os.environ.get(variable) == first["input"]
    notes = [f"given: {first['input']!r}"] * shown + [f"by {variable}"] * is_variable
    given = f" ({', '.join(notes)})" if notes else ""
    return f"{': '.join((name, *keys))}: {message}{given}"


def run_requests(command: str, args: argparse.Namespace, work: Callable[[BlockingClient], None]) -> int:
    """Run `work` with a client for the broker of `args`, and return the exit status: 1 after an error, which is printed."""
    try:
        with BlockingClient(args.url, token=args.token) as client:
            work(client)
    except ClientError as error:
        say(command, client_error_text(error, args.url))
        return 1
    except BrokenPipeError:
        silence_stdout()
    return 0


def silence_stdout() -> None:
    """Discard output that is still buffered after a broken pipe; else Python prints an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
