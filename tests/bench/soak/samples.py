"""What the measured broker uses: a sample a second, and of each quiet part the medians."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.soak.trend import Trend, fit
from tests.support.http import HOST, read_answer, request
from tests.support.waiting import WAIT_SECONDS

WARM_UP_SHARE = 0.3
"""Left out at the start: caches, allocators and retention fill."""
MIN_LATENCIES = 20
_TASKS = re.compile(rb"^broker_tasks (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured quantity.

    Attributes:
        allowed_share, allowed: by how much it may grow during a run: a share of its level, and so much besides.
    """

    name: str
    unit: str
    allowed_share: float
    allowed: float


QUANTITIES = (
    Quantity("resident memory", "MB", 0.03, 1.0),
    Quantity("descriptors", "", 0.0, 3.0),
    Quantity("tasks", "", 0.0, 3.0),
    Quantity("latency, median", "ms", 0.25, 2.0),
)
MEMORY, DESCRIPTORS, TASKS, LATENCY = QUANTITIES


@dataclass(slots=True)
class Samples:
    """The medians of each quiet part.

    Attributes:
        times: seconds since the start.
        values: of each quantity, at those times.
    """

    times: list[float] = field(default_factory=list)
    values: dict[Quantity, list[float]] = field(default_factory=lambda: {one: [] for one in QUANTITIES})

    def add(self, seconds: float, found: dict[Quantity, float]) -> None:
        self.times.append(seconds)
        for quantity, value in found.items():
            self.values[quantity].append(value)

    def behind_warm_up(self) -> int:
        """The index of the first sample that counts."""
        limit = WARM_UP_SHARE * self.times[-1]
        return next(index for index, seconds in enumerate(self.times) if seconds >= limit)

    def trend(self, quantity: Quantity) -> Trend:
        first = self.behind_warm_up()
        return fit(self.times[first:], self.values[quantity][first:])


def growing(samples: Samples) -> Sequence[str]:
    """A line for each quantity that grows more than it may."""
    found = []
    for quantity in QUANTITIES:
        trend = samples.trend(quantity)
        allowed = quantity.allowed + quantity.allowed_share * trend.start
        if trend.exceeds(allowed):
            found.append(
                f"{quantity.name} grew by {trend.growth:.2f} ± {trend.growth_error:.2f} {quantity.unit}, "
                f"and may grow by {allowed:.2f}"
            )
    return found


async def measure(pid: int, port: int, latencies: list[float], until: float) -> dict[Quantity, float]:
    """The medians from now until the loop's time `until`, and until there are some `latencies` (seconds), which readers fill."""
    loop = asyncio.get_running_loop()
    latencies.clear()
    deadline = until + WAIT_SECONDS
    seen: dict[Quantity, list[float]] = {quantity: [] for quantity in QUANTITIES}
    while loop.time() < until or len(latencies) < MIN_LATENCIES:
        assert loop.time() < deadline, "the streams of the measured broker get no events"
        seen[MEMORY].append(_resident(pid) / 1e6)
        seen[DESCRIPTORS].append(len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - Path makes an object for each
        seen[TASKS].append(await _tasks(port))
        await asyncio.sleep(1.0)
    seen[LATENCY] = [one * 1000 for one in latencies]
    return {quantity: median(values) for quantity, values in seen.items()}


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _tasks(port: int) -> float:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request("GET", "/metrics", "Connection: close"))
    answer = await read_answer(reader)
    writer.close()
    found = _TASKS.search(answer.body)
    assert found, "the metrics have the tasks"
    return float(found[1])


def stamp() -> str:
    """The time now, for an event's data."""
    return f"{time.monotonic():.6f}"
