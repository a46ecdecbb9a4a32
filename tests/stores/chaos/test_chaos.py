"""Chaos runs with fixed seeds, about three minutes in all. See the package for longer ones."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.stores.chaos.all_groups import GROUPS
from tests.stores.chaos.groups import Stage
from tests.stores.chaos.ledger import Ledger
from tests.stores.chaos.run import Run
from tests.stores.conftest import find_program

SEED = int(os.environ.get("TEST_SEED", "1"))
SECONDS = 22
ROUND_SECONDS = 12
RETENTION_EVENTS = 40


@pytest.mark.slow
@pytest.mark.exclusive  # real processes under real time limits
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", GROUPS)
async def test_i2_subscribers_get_every_event_or_a_gap_whatever_fails(name: str, tmp_path: Path) -> None:
    ledger = Ledger(RETENTION_EVENTS)
    group = GROUPS[name](Stage(tmp_path, find_program("valkey"), ledger, random.Random(SEED)))
    try:
        run = Run(group, ledger, SEED, ROUND_SECONDS)
        await group.start()
        report = await run.run(SECONDS)
    finally:
        await group.stop()
    print(report.text())
    for witness in run.witnesses if report.violations else []:
        print(f"--- {witness.name} {witness.topics}", *witness.trace(), sep="\n")
    assert report.violations == []
    assert report.counts["acknowledged"] > 0 and report.faults.total() > 0
