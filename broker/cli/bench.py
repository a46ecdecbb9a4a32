"""`broker bench`: puts load on an SSE server, and reports rates, latency, CPU time and memory.

Rules: `broker.bench` measures. The result goes to standard output, the progress to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys

from broker.cli import common
from broker.cli.progress import INSTALL, Progress, ProgressLines, progress_bar

EXAMPLES = """\
examples:
  broker bench --subscribers 1000 --rate 10
  broker bench --subscribers 1000 --publishers 64 --rate 0 --server-pid "$(pgrep -f 'broker serve')"
  broker bench --connects --subscribers 10000 --replay 100
  broker bench --subscribers 0 --publishers 32 --rate 0
  broker bench --subscribers 0 --publishers 1 --rate 0 --ndjson
  broker bench --subscribers 10000 --topics 10000 --duration 0 --server-pid PID
  broker bench --url 'http://127.0.0.1:9000/sub/{n}' --publish-url 'http://127.0.0.1:9000/pub/{n}' --topics 50

--subscribers 0 only publishes. --duration 0 only connects, and then measures memory.
Latency is sampled: of each chunk that a subscriber reads, one random event stands for all events of the chunk.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker bench`. All but --json and --token are fields of `Load`."""
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--url",
        default=f"{common.default_url()}/topics/bench.{{n}}",
        help="URL to subscribe to; {n} stands for the number of the topic (default: %(default)s)",
    )
    parser.add_argument(
        "--publish-url", default="", metavar="URL", help="URL to publish to (default: the same)"
    )
    parser.add_argument(
        "--header",
        dest="headers",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="header of every request; repeatable",
    )
    common.add_token(parser)
    _add_number(parser, "--subscribers", 1000, "N", "connections that read")
    _add_number(parser, "--topics", 1, "N", "topics that subscribers and events are spread over")
    _add_number(parser, "--publishers", 1, "N", "keep-alive connections that publish")
    _add_number(parser, "--rate", 10.0, "N", "events a second in total; 0: as fast as possible")
    _add_number(parser, "--size", 200, "BYTES", "size of an event's data")
    _add_number(parser, "--duration", 10.0, "SECONDS", "how long to publish")
    _add_number(parser, "--drain", 10.0, "SECONDS", "how long to wait for the last deliveries at most")
    parser.add_argument("--connects", action="store_true", help="only measure connecting")
    _add_number(parser, "--connect-rate", 0.0, "N", "new connections a second; 0: as fast as possible")
    _add_number(
        parser, "--replay", 0, "N", "with --connects: reconnect with a Last-Event-ID that is N events old"
    )
    parser.add_argument(
        "--ndjson", action="store_true", help="stream NDJSON lines in one POST on each publisher's connection"
    )
    _add_number(parser, "--stuck", 0, "N", "additional subscribers that never read")
    _add_number(
        parser, "--alive-topics", 0, "N", "publish one event to each of N topics first, so that they exist"
    )
    _add_number(
        parser, "--processes", 0, "N", "processes that make the load; 0: depends on the number of CPUs"
    )
    _add_number(
        parser,
        "--server-pid",
        0,
        "PID",
        "measure CPU time and memory of this process and its children; 0: none",
    )
    parser.add_argument(
        "--yes-this-is-my-server", dest="any_host", action="store_true", help="put load on another machine"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_number(
    parser: argparse.ArgumentParser, name: str, default: float, metavar: str, description: str
) -> None:
    parser.add_argument(
        name,
        type=type(default),
        default=default,
        metavar=metavar,
        help=f"{description} (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print. Returns 0, or 1 if the run is impossible."""
    try:
        from broker.bench import BenchError, Load, measure
        from broker.bench.report import text
    except ModuleNotFoundError as error:
        package = (error.name or "broker").partition(".")[0]
        if package == "broker":
            raise
        common.say("bench", f"the package {package} is missing: {INSTALL}")
        return 1
    fields = {name: getattr(args, name) for name in Load.__dataclass_fields__ if name in args}
    authorization = () if args.token is None else (f"Authorization: Bearer {args.token}",)
    try:
        with _progress() as progress:
            result = measure(Load(**fields | {"headers": (*args.headers, *authorization)}), progress)
    except BenchError as error:
        common.say("bench", str(error))
        return 1
    print(json.dumps(result.as_json(), indent=2) if args.json else text(result))
    return 0


def _progress() -> Progress:
    bar = progress_bar("bench") if sys.stderr.isatty() else None
    return bar or ProgressLines()
