"""Load an SSE server with subscribers and publishers, and report deliveries/s, latency, connects/s, CPU and memory.

Rules: options in, figures out; what is measured and how is `broker.bench`. The result goes to standard output, how far it
is to standard error: a bar on a terminal, a line a phase elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from broker.bench.conduct import Progress, measure
from broker.bench.plan import BenchError, Load
from broker.bench.plot import svg
from broker.bench.report import Result, text
from broker.cli import remote

EXAMPLES = """\
examples:
  broker bench --subscribers 1000 --rate 10
  broker bench --subscribers 1000 --publishers 64 --rate 0 --server-pid "$(pgrep -f 'broker serve')"
  broker bench --connects --subscribers 10000 --replay 100
  broker bench --subscribers 0 --publishers 32 --rate 0
  broker bench --subscribers 0 --publishers 1 --rate 0 --ndjson
  broker bench --subscribers 10000 --topics 10000 --duration 0 --server-pid PID
  broker bench --url 'http://127.0.0.1:9000/sub/{n}' --publish-url 'http://127.0.0.1:9000/pub/{n}' --topics 50

--subscribers 0 publishes only; --duration 0 connects only, and then measures memory.
Latency is sampled, fairly: one event of each chunk that is read stands for the events of that chunk.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `broker bench`; each but the last few is a field of Load."""
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--url",
        default="http://127.0.0.1:8080/topics/bench.{n}",
        help="where to subscribe; {n} becomes the number of the topic (default: %(default)s)",
    )
    add("--publish-url", default="", metavar="URL", help="where to publish (default: the same)")
    add(
        "--header",
        dest="headers",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent with every request; may be given again",
    )
    remote.add_token(parser)
    add(
        "--subscribers",
        type=int,
        default=1000,
        metavar="N",
        help="connections that read (default: %(default)s)",
    )
    add(
        "--topics",
        type=int,
        default=1,
        metavar="N",
        help="spread subscribers and events over so many topics (default: 1)",
    )
    add(
        "--publishers",
        type=int,
        default=1,
        metavar="N",
        help="keep-alive connections that publish (default: 1)",
    )
    add(
        "--rate",
        type=float,
        default=10.0,
        metavar="N",
        help="events a second, overall; 0: as fast as they are answered (default: 10)",
    )
    add("--size", type=int, default=200, metavar="BYTES", help="of an event's data (default: %(default)s)")
    add("--duration", type=float, default=10.0, metavar="SECONDS", help="of publishing (default: 10)")
    add(
        "--drain",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="to wait at most for the last deliveries (default: 10)",
    )
    add("--connects", action="store_true", help="measure connecting only")
    add(
        "--connect-rate",
        type=float,
        default=0.0,
        metavar="N",
        help="new connections a second; 0: as fast as they are answered (default)",
    )
    add(
        "--replay",
        type=int,
        default=0,
        metavar="N",
        help="with --connects: come back with a Last-Event-ID that N events lie behind",
    )
    add(
        "--ndjson",
        action="store_true",
        help="publish lines in one streamed POST on each publisher's connection",
    )
    add("--stuck", type=int, default=0, metavar="N", help="further subscribers that never read (default: 0)")
    add(
        "--alive-topics",
        type=int,
        default=0,
        metavar="N",
        help="publish an event to each of the first N topics before, so that they exist (default: 0)",
    )
    add(
        "--processes",
        type=int,
        default=0,
        metavar="N",
        help="processes that make the load (default: by the number of CPUs)",
    )
    add(
        "--server-pid",
        type=int,
        default=0,
        metavar="PID",
        help="measure CPU time and memory of this process and its children",
    )
    add(
        "--yes-this-is-my-server",
        dest="any_host",
        action="store_true",
        help="put load on another machine than this one",
    )
    add("--json", action="store_true", help="print the result as JSON")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the latency curve")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Exit status 0; 1 if it could not be measured."""
    try:
        with shown_progress() as progress:
            result = measure(load_of(args), progress)
    except BenchError as error:
        print(f"broker bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result.as_json(), indent=2) if args.json else text(result))
    if args.plot:
        args.plot.write_text(plot(result), encoding="utf-8")
    return 0


def load_of(args: argparse.Namespace) -> Load:
    """The load that the arguments ask for."""
    given = {name: getattr(args, name) for name in Load.__dataclass_fields__}
    authorization = () if args.token is None else (f"Authorization: Bearer {args.token}",)
    return Load(**given | {"headers": (*args.headers, *authorization)})


def plot(result: Result) -> str:
    """The curves that this run has."""
    curves = {}
    if result.delivering:
        curves["publish → deliver"] = result.delivering.latency
    if result.publishing:
        curves["publish → answer"] = result.publishing.latency
    load = result.load
    return svg(f"{load.subscribers:,} subscribers, {load.topics:,} topic(s), {load.rate:g} events/s", curves)


def shown_progress() -> Bar | Lines:
    """A bar on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines()


class Lines(Progress):
    """A line for each phase."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Nothing to take down."""

    def phase(self, title: str, total: float) -> None:
        print(f"{title} ({total:,.0f})", file=sys.stderr, flush=True)

    def advance(self, done: float) -> None:
        """Lines don't move."""


class Bar(Progress):
    """A bar that is drawn anew for each phase."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.rich = RichProgress(*columns, console=console, transient=True)
        self.task = self.rich.add_task("looking", total=None)

    def __enter__(self) -> Self:
        self.rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.rich.stop()

    def phase(self, title: str, total: float) -> None:
        self.rich.reset(self.task, description=title, total=int(total))

    def advance(self, done: float) -> None:
        self.rich.update(self.task, completed=int(done))
