"""How much other processes use the two CPUs: waits until they are quiet, and measures their use during a run.

Rules: reads /proc/stat and ends no process. Our own use is that of this process and of its children that have been waited for,
so a share is correct only when all started processes have ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

QUIET_SHARE = 0.15
SAMPLE_SECONDS = 0.5
WAIT_SECONDS = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Others:
    """The `share` of both CPUs that other processes used, 0 to 1; set at the end of the block."""

    share: float = 0.0


def busy_seconds(cpus: tuple[int, int]) -> float:
    """The CPU time of all processes on these CPUs, including stolen time."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    rows = (line.split() for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines())
    # user, nice, system, (idle, iowait), irq, softirq, steal
    return sum(sum(map(int, row[1:4])) + sum(map(int, row[6:9])) for row in rows if row[0] in wanted) / TICKS


def our_seconds() -> float:
    """The CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def wait_for_quiet(cpus: tuple[int, int]) -> None:
    """Return when the CPUs are nearly idle, or after WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        before = busy_seconds(cpus)
        time.sleep(SAMPLE_SECONDS)
        if (busy_seconds(cpus) - before) / (2 * SAMPLE_SECONDS) < QUIET_SHARE:
            return


@contextlib.contextmanager
def others_share(cpus: tuple[int, int]) -> Iterator[Others]:
    """Measure how much other processes use the CPUs during the block."""
    others = Others()
    busy, ours, began = busy_seconds(cpus), our_seconds(), time.monotonic()
    yield others
    foreign = busy_seconds(cpus) - busy - (our_seconds() - ours)
    others.share = max(0.0, foreign / (2 * (time.monotonic() - began)))
