"""`python -m tests.bench.observing`: what metrics, log lines and traces cost per POST, per delivery and per new subscriber.

The broker as it is runs next to one with more switched on, or to one that records nothing (`unobserved`), under the same
bursts in turn (`pairs`). "The same" is a second broker without a difference, and shows the noise. For the compiled build:

    python -m tests.bench.unobserved --copy FOLDER    and compile both FOLDER and this repository
    python -m tests.bench.observing --broker COMPILED --checkout off=COMPILED_FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from broker.bench import BenchError
from broker.descriptors import raise_limit
from tests.bench.pairs import LOADS, Ratio, Round, compare, ratio
from tests.bench.peers.__main__ import machine, named_folder
from tests.bench.peers.servers import Broker, MissingError, Peer, running


class Reloaded(Broker):
    """The broker as `unobserved` loads it: whole, or so that it records nothing."""

    def __init__(self, name: str, *arguments: str, is_whole: bool) -> None:
        super().__init__(name, *arguments)
        self.is_whole = is_whole

    def command(self, port: int, directory: Path) -> list[str]:
        whole = ["--whole"] if self.is_whole else []
        module = [sys.executable, "-m", "tests.bench.unobserved", *whole]
        return [*module, "serve", f"--port={port}", *self.arguments]


WHOLE = Reloaded("the same", is_whole=True)
VARIANTS: tuple[Peer, ...] = (
    WHOLE,
    Reloaded("metrics and logs off", "--log-level=error", is_whole=False),
    Broker("access log", "--access-log"),
    Broker("access log, JSON", "--access-log", "--log-format=json"),
    Broker("trace events", "--trace-events"),
)


def main() -> int:
    """Measure, and print the table. Exit status 1 if something could not be measured."""
    args = arguments()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("observing: needs two CPUs, one for the brokers and one for the load", file=sys.stderr)
        return 1
    raise_limit()
    console, problems = Console(stderr=True), []
    base: Peer = Broker(checkout=args.broker)
    variants: list[Peer] = [
        Broker(name, "--log-level=error", checkout=folder) for name, folder in args.checkout
    ]
    variants = variants or [one for one in VARIANTS if one.name in args.variants]
    table: list[list[str]] = [["", "CPU", *(one.name for one in variants)]]
    for name in args.only:
        title, _ = LOADS[name]
        ratios: list[Ratio | None] = []
        for variant in variants:
            try:
                first = WHOLE if isinstance(variant, Reloaded) else base
                ratios.append(pair(first, variant, name, (cpus[0], cpus[1]), args))
            except (BenchError, MissingError, OSError) as error:
                problems.append(f"{title}: {variant.name}: {error}")
                ratios.append(None)
            console.print(f"{title}, {variant.name}: {ratios[-1]}", highlight=False)
        cpu = next((f"{one.cpu_us:.1f} µs" for one in ratios if one), "—")
        table.append([title, cpu, *("—" if one is None else str(one) for one in ratios)])
    table.insert(1, ["---"] * len(table[0]))
    print("\n".join(f"| {' | '.join(row)} |" for row in table))
    print(f"\n{machine()}; CPU of the broker, and of the others as a multiple; {args.rounds} rounds")
    for problem in problems:
        print(f"observing: {problem}", file=sys.stderr)
    return 1 if problems else 0


def pair(base: Peer, variant: Peer, load: str, cpus: tuple[int, int], args: argparse.Namespace) -> Ratio:
    """Start both, in turn one or the other first, and compare them under `load`, in each round."""
    rounds: list[Round] = []
    for number in range(args.rounds):
        with contextlib.ExitStack() as stack:
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
            order = (base, variant) if number % 2 == 0 else (variant, base)
            servers = [
                stack.enter_context(running(one, *cpus, folder))
                for one, folder in zip(order, folders, strict=True)
            ]
            first, second = servers if number % 2 == 0 else reversed(servers)
            rounds.append(compare(first, second, LOADS[load][1], args.seconds))
    return ratio(rounds)


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.observing", description="Measure what metrics, logs and traces cost."
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD", help=", ".join(LOADS))
    names = [one.name for one in VARIANTS]
    add("--variants", nargs="+", choices=names, default=names, metavar="NAME", help="; ".join(names))
    add("--rounds", type=rounds, default=8, metavar="N", help="of each pair, at least 2 (default: 8)")
    add("--seconds", type=float, default=8.0, metavar="N", help="for each round (default: 8)")
    add(
        "--broker",
        type=Path,
        metavar="FOLDER",
        help="compare with the broker in this folder, not with this one",
    )
    add(
        "--checkout",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="a broker in another folder takes the place of the variants",
    )
    return parser.parse_args(args)


def rounds(text: str) -> int:
    """A number of rounds, for argparse."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: at least 2, so that the error is known")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
