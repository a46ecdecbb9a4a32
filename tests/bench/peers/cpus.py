"""Whether the two CPUs are ours: wait until they are quiet, and tell how much of them others took meanwhile.

Rules: reads /proc/stat; ends and hinders nobody. What is ours is this process and its children that have been waited for,
so a share is true only where all that was started has ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

QUIET_SHARE = 0.15
LOOK_SECONDS = 0.5
WAIT_SECONDS = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Others:
    """`share`: of the time of both CPUs, 0 to 1; known when the block has ended."""

    share: float = 0.0


def busy_seconds(cpus: tuple[int, int]) -> float:
    """How long these CPUs have worked for anybody, stolen time included."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    rows = (line.split() for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines())
    # user, nice, system, (idle, iowait), irq, softirq, steal
    return sum(sum(map(int, row[1:4])) + sum(map(int, row[6:9])) for row in rows if row[0] in wanted) / TICKS


def our_seconds() -> float:
    """The CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def wait_for_quiet(cpus: tuple[int, int]) -> None:
    """Return when hardly anybody uses the CPUs, or after WAIT_SECONDS all the same."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        before = busy_seconds(cpus)
        time.sleep(LOOK_SECONDS)
        if (busy_seconds(cpus) - before) / (2 * LOOK_SECONDS) < QUIET_SHARE:
            return


@contextlib.contextmanager
def others_share(cpus: tuple[int, int]) -> Iterator[Others]:
    """Tell, after the block, how much of the CPUs went to other processes."""
    others = Others()
    busy, ours, began = busy_seconds(cpus), our_seconds(), time.monotonic()
    yield others
    foreign = busy_seconds(cpus) - busy - (our_seconds() - ours)
    others.share = max(0.0, foreign / (2 * (time.monotonic() - began)))
