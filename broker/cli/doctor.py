"""`broker doctor`: examines the path to a broker through its proxies, and reports faults with their remedies.

Rules: `broker.doctor` examines. The report goes to standard output, the progress to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.cli import common
from broker.cli.progress import Progress, ProgressLines, progress_bar

if TYPE_CHECKING:
    from broker.doctor import Report, Target

EPILOG = """\
The doctor uses the broker as browsers and publishers do, at the URL that they use. It publishes into topics of its own, named
doctor.<random>, and deletes them at the end. Each finding is an error, a warning, ok, or info if it could not be examined. With
an error or a warning comes what to change in nginx, HAProxy, Caddy, Envoy, Traefik, an AWS ALB or Cloudflare.

It takes less than a minute; most of it goes into watching silent streams for time-outs. --long watches for six minutes, which
is enough for every usual time-out.

If access is on, give it a token that may publish and subscribe to its topics, and admin to see time-outs behind the heartbeats:
  broker token --publish 'doctor.*' --subscribe 'doctor.*' --admin

examples:
  broker doctor https://events.example.com
  broker doctor https://example.com/events --origin https://app.example.com --long
  broker doctor https://events.example.com --only buffering --only last-event-id
  broker doctor https://events.example.com --json | jq '.findings[] | select(.severity == "error")'

Exit status: 0; 1 if there is an error; 2 for wrong usage, or if no broker can be examined at this URL.
"""

DEFAULT_SECONDS, LONG_SECONDS = 45.0, 360.0
TERMINATED = 128 + signal.SIGTERM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker doctor`."""
    from broker.doctor.checks import CHECKS

    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "url",
        nargs="?",
        type=common.broker_url,
        default=common.default_url(),
        metavar="URL",
        help="URL that browsers and publishers use (default: BROKER_URL from the environment, else this machine)",
    )
    common.add_token(parser)
    parser.add_argument(
        "--topic",
        type=common.topic,
        default="doctor",
        metavar="PREFIX",
        help="beginning of the names of the topics to publish into (default: doctor)",
    )
    parser.add_argument(
        "--origin",
        type=_origin,
        help="origin of your pages if they are on another host, such as https://app.example.com",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(CHECKS),
        metavar="CODE",
        help="run only the check with this code, such as buffering; repeatable",
    )
    parser.add_argument(
        "--long", action="store_true", help="watch silent streams for 6 minutes instead of 45 s"
    )
    parser.add_argument(
        "--silence", type=_seconds, metavar="SECONDS", help="watch silent streams for so long"
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="trust the certificate authorities in this PEM file instead of the system's",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _origin(text: str) -> str:
    scheme, separator, host = text.partition("://")
    is_plain = text.isascii() and text.isprintable() and not {"/", " ", "@"} & {*host}
    if scheme not in ("http", "https") or not separator or not host or not is_plain:
        raise argparse.ArgumentTypeError(f"{text!r} is not an origin; write https://host without a path")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Examine and print, and return the exit status that the help describes."""
    from broker.doctor import Target, Unreachable, text

    seconds = args.silence or (LONG_SECONDS if args.long else DEFAULT_SECONDS)
    target = Target(args.url, args.token, args.topic, args.origin, seconds, args.ca_file)
    try:
        with _progress() as progress:
            report = asyncio.run(_examine(target, progress, args.only))
    except Unreachable as failure:
        common.say("doctor", str(failure))
        return 2
    except OSError as failure:
        common.say("doctor", f"cannot read the certificates of {args.ca_file}: {failure.strerror or failure}")
        return 2
    except asyncio.CancelledError:
        return TERMINATED
    print(json.dumps(report.as_json(), indent=2) if args.json else text(report))
    return report.exit_status


async def _examine(target: Target, progress: Progress, only: Sequence[str] | None) -> Report:
    from broker.doctor import examine
    from broker.doctor.checks import CHECKS

    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # not on every system
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGTERM, task.cancel
        )  # the topics are deleted first
    progress.begin(f"examining {target.url}", None)

    def show(done: int, running: list[str]) -> None:
        if not done:
            progress.begin("checks", len(running))
        elif running:
            progress.update(done, f"running: {', '.join(running[:3])}{' …' if len(running) > 3 else ''}")

    return await examine(target, show, only or CHECKS.keys())


def _progress() -> Progress:
    bar = progress_bar("doctor") if sys.stderr.isatty() else None
    return bar or ProgressLines()
