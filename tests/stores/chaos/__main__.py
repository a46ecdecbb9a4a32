"""Run it for as long as you like: `python -m tests.stores.chaos --seconds 3600 --seed 1`."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from time import monotonic

from tests.stores.chaos.all_groups import GROUPS
from tests.stores.chaos.groups import Stage
from tests.stores.chaos.ledger import Ledger
from tests.stores.chaos.report import Report
from tests.stores.chaos.run import Run
from tests.support.redis_servers import redis, valkey

PROGRAMS = {"valkey": valkey, "redis": redis}


async def run_group(name: str, seed: int, seconds: float, options: argparse.Namespace) -> Report:
    """One group, from its start to its end."""
    program = PROGRAMS[options.program]()
    assert program is not None, f"{options.program} isn't installed"
    ledger = Ledger(options.retention_events)
    with tempfile.TemporaryDirectory(prefix="chaos") as directory:
        group = GROUPS[name](Stage(Path(directory), program, ledger, random.Random(seed)))
        try:
            run = Run(group, ledger, seed, options.round_seconds, without=options.without.split(","))
            await group.start()
            report = await run.run(seconds, lambda report: print(f"{name}: {report.line()}", flush=True))
        finally:
            await group.stop()
    if report.violations:
        for witness in run.witnesses:
            print(f"--- {witness.name} {witness.topics}", *witness.trace(), sep="\n")
    return report


async def run_all(options: argparse.Namespace) -> Report:
    """One group after the other, until the time is over or something is violated."""
    total = Report(options.seed)
    chance = random.Random(options.seed)
    end_at = monotonic() + options.seconds
    for name in cycle(options.group or GROUPS):
        seconds = min(options.group_seconds, end_at - monotonic())
        seed = chance.getrandbits(32)
        print(f"{name}: seed {seed}", flush=True)
        total.add(name, await run_group(name, seed, seconds, options))
        print(total.text(), flush=True)
        if total.violations or monotonic() >= end_at:
            break
    return total


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stores.chaos")
    parser.add_argument("--seconds", type=float, default=60, help="how long to run in all")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument(
        "--group", choices=GROUPS, action="append", help="only this one; all in turn by default"
    )
    parser.add_argument("--program", choices=PROGRAMS, default="valkey", help="the data server")
    parser.add_argument(
        "--group-seconds", type=float, default=300, help="how long to run a group before the next"
    )
    parser.add_argument(
        "--round-seconds", type=float, default=20, help="how long to disturb before everything is checked"
    )
    parser.add_argument("--without", default="", help="faults to leave out, comma-separated")
    parser.add_argument("--retention-events", type=int, default=100)
    options = parser.parse_args()
    # Under nohup, SIGHUP is ignored. Brokers would inherit that, and never replace their workers.
    signal.signal(signal.SIGHUP, lambda *_: None)
    return 1 if asyncio.run(run_all(options)).violations else 0


if __name__ == "__main__":
    sys.exit(main())
