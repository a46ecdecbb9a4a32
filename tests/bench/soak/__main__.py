"""`python -m tests.bench.soak`: runs, prints the slopes, and draws the plot. Exit status 1 if something grows."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import uvloop

from tests.bench.peers.__main__ import machine
from tests.bench.soak.plot import draw
from tests.bench.soak.run import Soak, soak
from tests.bench.soak.samples import QUANTITIES, growing


def report(found: Soak) -> str:
    """The slopes as a Markdown table, and what happened."""
    rows = ["| | at the start | per hour |", "|---|---|---|"]
    for quantity in QUANTITIES:
        trend = found.samples.trend(quantity)
        unit = f" {quantity.unit}" if quantity.unit else ""
        rows.append(
            f"| {quantity.name} | {trend.start:.1f}{unit} | {trend.slope * 3600:+.2f} ± {trend.error * 3600:.2f}{unit} |"
        )
    done = ", ".join(f"{number} {kind}" for kind, number in sorted(found.counts.items()))
    faults = ", ".join(f"{number} of {name}" for name, number in sorted(found.faults.items()))
    return "\n".join(
        [*rows, "", f"{found.seconds / 60:.1f} minutes; {machine()}", f"load: {done}", f"faults: {faults}"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="default: 60")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="how much load (default: 1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the load's choices")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot, as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples")
    args = parser.parse_args()

    def progress(seconds: float) -> None:
        print(f"\r{seconds / 60:6.1f} of {args.minutes:g} minutes", end="", file=sys.stderr, flush=True)

    async def run() -> Soak:
        return await soak(args.minutes * 60, scale=args.scale, seed=args.seed, progress=progress)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run())
    print(file=sys.stderr)
    if args.json:
        values = {one.name: values for one, values in found.samples.values.items()}
        args.json.write_text(json.dumps({"seconds": found.samples.times, **values}))
    if args.plot:
        draw(found.samples, args.plot)
    print(report(found))
    problems = [*growing(found.samples), *found.errors[:10]]
    for problem in problems:
        print(f"soak: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
