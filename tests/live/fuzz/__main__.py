"""`python -m tests.live.fuzz`: the options, and the report."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.live.fuzz.run import SETTINGS, Run, without_collector
from tests.support.broker_process import BrokerProcess


def main() -> int:
    """Run, and print the problems. Exit status 1 if there is any."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="after the warm-up (default: 50,000)")
    parser.add_argument("--warm-up", type=int, default=10_000, help="requests before (default: 10,000)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="(default: a new one)")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these requests of the seed alone")
    parser.add_argument("--no-collector", action="store_true", help="with Python's cycle collector off")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environment = without_collector(Path(directory)) if args.no_collector else {}
        with BrokerProcess(**SETTINGS, environment=environment) as broker:
            run = Run(broker, args.seed)
            began = time.monotonic()
            if args.only:
                run.send(args.only)
            else:
                run.send(range(args.warm_up))
                descriptors, before = run.descriptors(), broker.resident_bytes()
                print(f"seed {args.seed}: warm, {before:,} bytes, {descriptors} descriptors", flush=True)
                run.send(range(args.warm_up, args.warm_up + args.requests))
                run.check_what_stayed(descriptors, before)
            print(
                f"{time.monotonic() - began:.0f} s, {broker.resident_bytes():,} bytes, {run.descriptors()} descriptors; "
                f"statuses {dict(sorted(run.statuses.items()))}"
            )
            if run.problems:
                print(broker.output[-5000:])
    print(*run.problems or ["nothing wrong"], sep="\n")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main())
