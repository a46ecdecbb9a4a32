"""Run it for as long as you like: `python -m tests.stores.chaos --seconds 3600 --seed 1`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.stores.chaos.embedded import EmbeddedGroup
from tests.stores.chaos.groups import Group
from tests.stores.chaos.ledger import Ledger
from tests.stores.chaos.replicated import ReplicatedGroup
from tests.stores.chaos.run import Run
from tests.support.redis_servers import valkey

GROUPS: dict[str, Callable[[Path, str, Ledger, random.Random], Group]] = {
    "shared": Group,
    "sentinel": ReplicatedGroup,
    "sentinel-wait": partial(ReplicatedGroup, wait_replicas=True),
    "data": EmbeddedGroup,
}


async def _run(options: argparse.Namespace) -> int:
    program = valkey()
    assert program is not None
    ledger = Ledger(options.retention_events)
    with tempfile.TemporaryDirectory(prefix="chaos") as directory:
        group = GROUPS[options.group](Path(directory), program, ledger, random.Random(options.seed))
        run = Run(group, ledger, options.seed, options.round_seconds, without=options.without.split(","))
        try:
            await group.start()
            report = await run.run(options.seconds, lambda text: print(text, flush=True))
        finally:
            group.stop()
    print(report.text())
    for witness in run.witnesses if report.violations else []:
        print(f"--- {witness.name} {witness.topics}", *witness.trace(), sep="\n")
    return 1 if report.violations else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stores.chaos")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--group", choices=GROUPS, default="shared")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--round-seconds", type=float, default=20)
    parser.add_argument("--without", default="", help="faults to leave out, comma-separated")
    parser.add_argument("--retention-events", type=int, default=200)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return asyncio.run(_run(options))


if __name__ == "__main__":
    sys.exit(main())
