"""`python -m tests.bench.attacks`: how long well-behaved subscribers wait for their events during an attack.

Rules: attacks and subscribers are those of tests/live; this pins processes, repeats and prints. The broker has one CPU. The
subscribers share the other with the attacker, which has a lower priority, so that the broker's delay is measured and not
theirs. Both figures of a ratio come from the same broker, one directly after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.peers.__main__ import machine
from tests.bench.peers.loads import TIMES
from tests.bench.peers.servers import Broker, running
from tests.live import attacks
from tests.live.attacks import ATTACKS, Attack
from tests.live.control_crowd import COUNT, ControlCrowd

SERVE = (
    "--head-seconds=5",
    "--body-seconds=5",
    "--slow-seconds=5",
    "--max-topics=2000",
    "--idempotency-memory-bytes=1048576",
    "--idempotency-seconds=1",
)
QUIET_SECONDS = 6.0
MIN_ATTACK_SECONDS = 6.0
QUANTILES = (0.5, 0.95)
Latencies = tuple[list[float], list[float]]
"""Without an attack, and during one."""


def once(attack: Attack) -> Latencies:
    """Seconds from publishing an event until the last subscriber has it."""
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running(Broker("broker", *SERVE), cpus[0], cpus[1], directory))
        stack.callback(os.sched_setaffinity, 0, cpus)
        port = urlsplit(server.url).port
        assert port is not None
        subscribers = stack.enter_context(ControlCrowd(port, cpu=cpus[1]))
        attacker = stack.enter_context(attacks.Attacker(cpu=cpus[1]))
        subscribers.report()
        time.sleep(QUIET_SECONDS)
        quiet = subscribers.report().seconds
        ends = time.monotonic() + MIN_ATTACK_SECONDS
        while time.monotonic() < ends:
            attacker.run(attack, port)
        return quiet, subscribers.report().seconds


def shown(rounds: Sequence[Latencies]) -> str:
    """For each quantile: without an attack, during one, and the ratio; medians of the rounds."""
    cells = []
    for quantile in QUANTILES:
        pairs = [(at(quiet, quantile), at(attacked, quantile)) for quiet, attacked in rounds]
        quiet, attacked = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
        ratio = statistics.median(attacked / quiet for quiet, attacked in pairs)
        cells.append(f"{quiet:.1f} ms | {attacked:.1f} ms ({ratio:.2f} {TIMES})")
    return " | ".join(cells)


def at(values: Sequence[float], quantile: float) -> float:
    return sorted(values)[min(len(values) - 1, int(quantile * len(values)))]


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.attacks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[attack.__name__ for attack in ATTACKS])
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("attacks: needs two CPUs, one for the broker and one for the clients", file=sys.stderr)
        return 1
    print(f"| attack | p50 to all {COUNT} | attacked | p95 | attacked |\n|---|---|---|---|---|")
    for attack in ATTACKS:
        if not args.only or attack.__name__ in args.only:
            print(f"| {attack.__name__} | {shown([once(attack) for _ in range(args.rounds)])} |", flush=True)
    print(f"\n{machine()}; median of {args.rounds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
