"""`python -m tests.bench.peers`: options, the order of measurements, and where the figures are kept.

With --json, the file is read first and written after each row, so that a table can be made in parts: a row that is measured
again replaces the old one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from broker.bench import BenchError, Load, Result, measure
from tests.bench.peers.cpus import others_share, wait_for_quiet
from tests.bench.peers.loads import ROWS, TIMES, Row
from tests.bench.peers.servers import PEERS, Broker, MissingError, Peer, running
from tests.bench.peers.table import drawn, markdown

DISTURBED_SHARE = 0.1
Figures = dict[str, dict[str, list[float]]]


def main() -> int:
    """Measure the chosen rows and print the table. Exit status 1 if something could not be measured."""
    args = arguments()
    workers = ("--workers=2", "--data={directory}/data") if args.both_cpus else ()
    if workers:
        PEERS["broker"] = Broker("broker", *workers)
    for name, folder in args.checkout:
        PEERS[name] = Broker(name, *workers, checkout=folder)
    for name, program in args.python:
        PEERS[name] = Broker(name, *workers, python=program)
    args.servers += [name for name, _ in args.checkout + args.python]
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("peers: needs two CPUs, one for the server and one for the load", file=sys.stderr)
        return 1
    console = Console(stderr=True)
    peers, problems = ready(args.servers, console)
    figures = known(args.json)
    for row in [row for row in ROWS if row.name in args.only]:
        figures[row.name] = {}
        problems += measured(row, peers, args, (cpus[0], cpus[1]), figures[row.name], console)
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    servers = [name for name in PEERS if any(name in seen for seen in figures.values())]
    caption = f"{machine()}; median of {args.rounds}; ({TIMES}: the broker's figure over the peer's)"
    if args.markdown:
        print(f"{markdown(figures, servers)}\n\n{caption}")
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(drawn(figures, servers, caption))
    for problem in problems:
        print(f"peers: {problem}", file=sys.stderr)
    return 1 if problems else 0


def arguments() -> argparse.Namespace:
    parser = measuring_parser(
        "tests.bench.peers", "Put the same loads on the broker and its peers.", [row.name for row in ROWS]
    )
    add = parser.add_argument
    add(
        "--servers",
        nargs="+",
        choices=list(PEERS),
        default=list(PEERS),
        metavar="NAME",
        help=f"of {', '.join(PEERS)} (default: all)",
    )
    add(
        "--checkout",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="measure the broker in another folder too: an older version, or .cache/compiled",
    )
    add(
        "--python",
        action="append",
        default=[],
        type=named_python,
        metavar="NAME=PROGRAM",
        help="measure the broker on another Python too, which has the broker's dependencies",
    )
    add(
        "--both-cpus",
        action="store_true",
        help="server and load share both CPUs, and the broker has two workers; for the rows of rates",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="keep the figures in this file; its rows stay in the table",
    )
    add("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args()


def measuring_parser(module: str, description: str, rows: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with the options that `measured` reads: `tries`, `rounds`, and `both_cpus`, which is false. `only` is some of `rows`."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.set_defaults(both_cpus=False)
    add = parser.add_argument
    add("--only", nargs="+", choices=rows, default=rows, metavar="NAME", help=f"rows: {', '.join(rows)}")
    add(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="measurements of each; the median counts (default: 5)",
    )
    add(
        "--tries",
        type=int,
        default=2,
        metavar="N",
        help="measure up to N times while other processes use the CPUs; the least disturbed run counts (default: 2)",
    )
    return parser


def named_folder(text: str) -> tuple[str, Path]:
    """`NAME=FOLDER`, for argparse."""
    name, _, folder = text.partition("=")
    if not (Path(folder) / "broker").is_dir():
        raise argparse.ArgumentTypeError(f"{text}: use NAME=FOLDER; the folder holds the package `broker`")
    return name, Path(folder).resolve()


def named_python(text: str) -> tuple[str, str]:
    """A name for a broker, and the Python to run it on."""
    name, _, program = text.partition("=")
    found = shutil.which(program)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: use NAME=PROGRAM; there is no such program")
    return name, str(Path(found).absolute())  # not resolved: the link tells Python its environment


def ready(names: Sequence[str], console: Console) -> tuple[list[Peer], list[str]]:
    """The servers that can run here, and why the others cannot."""
    peers, problems = [], []
    for name in names:
        console.print(f"preparing {name}")
        try:
            PEERS[name].prepare()
            peers.append(PEERS[name])
        except MissingError as error:
            problems.append(str(error))
    return peers, problems


def known(path: Path | None) -> Figures:
    """The figures of earlier runs."""
    if path is None or not path.exists():
        return {}
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    return figures


def measured(
    row: Row,
    peers: Iterable[Peer],
    args: argparse.Namespace,
    cpus: tuple[int, int],
    figures: dict[str, list[float]],
    console: Console,
) -> list[str]:
    """Measure one row, interleaved, into `figures`; returns what went wrong."""
    problems = []
    able = [peer for peer in peers if row.needs <= peer.can]
    for round_ in range(args.rounds):
        for peer in able:
            try:
                figure = one(row, peer, cpus, args)
            except (BenchError, MissingError) as error:
                problems.append(f"{row.name}: {peer.name}: {error}")
                continue
            figures.setdefault(peer.name, []).append(figure)
            console.print(
                f"{row.name} {round_ + 1}/{args.rounds} {peer.name}: {figure:,.6g} {row.unit}",
                highlight=False,
            )
    return problems


def one(row: Row, peer: Peer, cpus: tuple[int, int], args: argparse.Namespace) -> float:
    """One figure of one server, started anew for each load. Raises BenchError if the result does not have the figure."""
    seen = []
    for fields in row.loads:
        result, warnings = least_disturbed(fields, peer, cpus, args)
        for warning in warnings:
            print(f"{row.name} {peer.name}: {warning}", file=sys.stderr)
        figure = row.figure(result)
        if figure is None:
            raise BenchError("the run has no such figure")
        seen.append(figure)
    return seen[0] if len(seen) == 1 else seen[1] / seen[0]


def least_disturbed(
    fields: dict[str, Any], peer: Peer, cpus: tuple[int, int], args: argparse.Namespace
) -> tuple[Result, list[str]]:
    """The first run in which other processes hardly used the CPUs, or else the one with the least use; and its warnings."""
    seen: list[tuple[float, Result]] = []
    while len(seen) < args.tries and not any(share <= DISTURBED_SHARE for share, _ in seen):
        wait_for_quiet(cpus)
        with others_share(cpus) as others, tempfile.TemporaryDirectory() as directory:
            result = put(fields, peer, cpus, Path(directory), on_both=args.both_cpus)
        seen.append((others.share, result))
    share, result = min(seen, key=lambda one: one[0])
    disturbed = [f"other processes took {share:.0%} of the two CPUs"] if share > DISTURBED_SHARE else []
    return result, [*result.warnings(), *disturbed]


def put(
    fields: dict[str, Any], peer: Peer, cpus: tuple[int, int], directory: Path, *, on_both: bool
) -> Result:
    """Start the server, run the load, stop the server."""
    with running(peer, *cpus, directory, on_both=on_both) as server:
        load = Load(
            url=server.url,
            publish_url=server.publish_url,
            server_pid=server.pid,
            headers=server.headers,
            form=server.form,
            **fields,
        )
        return measure(load)


def machine() -> str:
    """The CPU, system and Python of this machine."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
