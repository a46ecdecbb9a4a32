"""Runs the cycle collector: seldom while the process is busy, and a full pass now and then in quiet moments.

Rules: knows the process's CPU time, but nothing of the broker. Requests leave few cycles and most objects live long, so passes
triggered by allocations visit many objects and free few. Without allocations, garbage would stay until the next busy time.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Protocol

COLLECT_AFTER = 20_000
"""Container objects allocated between two runs of the cycle collector; a request allocates about 50."""
YOUNG_RUNS = 3
"""After more runs over new objects than this, a run visits what they left: at most 80,000 objects, in 6 ms."""
MIDDLE_RUNS = 700  # before a run over all objects
LOOK_SECONDS = 1.0
QUIET_SHARE = 0.2
"""The process is quiet if it used less of a processor's time since the last look."""
PASS_SECONDS = 60.0
PASS_SHARE = 0.001
"""Full passes take at most this share of the time, however many objects there are."""


class Timers(Protocol):
    """The part of an event loop that is needed here."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object: ...


class QuietCollector:
    """Runs full passes in quiet moments, as long as the loop runs."""

    def __init__(
        self,
        loop: Timers,
        *,
        cpu_seconds: Callable[[], float] = time.process_time,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._loop = loop
        self._cpu_seconds = cpu_seconds
        self._collect = collect
        self._next_pass = loop.time() + PASS_SECONDS
        self._looked_at, self._used = loop.time(), cpu_seconds()

    def start(self) -> None:
        self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        now, used = self._loop.time(), self._cpu_seconds()
        is_quiet = used - self._used < QUIET_SHARE * (now - self._looked_at)
        if is_quiet and now >= self._next_pass:
            self._collect()
            took = self._loop.time() - now
            self._next_pass = now + max(PASS_SECONDS, took / PASS_SHARE)
        self._looked_at, self._used = self._loop.time(), self._cpu_seconds()
        self.start()


def relax_collector() -> None:
    """Run the collector less often, and in quiet moments. To be called in the loop, once everything is imported."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, YOUNG_RUNS, MIDDLE_RUNS)
    QuietCollector(asyncio.get_running_loop()).start()
