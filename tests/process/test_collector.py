"""Full passes of the cycle collector: in quiet moments, and never too often."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from broker.process.collector import (
    COLLECT_AFTER,
    LOOK_SECONDS,
    PASS_SECONDS,
    PASS_SHARE,
    QUIET_SHARE,
    QuietCollector,
    relax_collector,
)
from tests.support.waiting import WAIT_SECONDS


class Process:
    """A loop, and the processor's time that the process has used."""

    def __init__(self, pass_seconds: float = 0.001) -> None:
        self.now = 1000.0
        self.used = 5.0
        self.passes: list[float] = []
        self._pass_seconds = pass_seconds
        self._timers: list[tuple[float, Callable[[], object]]] = []
        QuietCollector(self, cpu_seconds=lambda: self.used, collect=self.collect).start()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object:
        self._timers.append((self.now + delay, callback))
        return None

    def collect(self) -> None:
        self.passes.append(self.now)
        self.now += self._pass_seconds
        self.used += self._pass_seconds

    def run(self, seconds: float, load: float) -> None:
        """Let time pass while the process uses this share of it."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            at, call = self._timers.pop(0)
            self.used += max(0.0, at - self.now) * load
            self.now = max(self.now, at)
            call()


def test_a_quiet_process_has_a_pass_a_minute() -> None:
    process = Process()
    process.run(10 * PASS_SECONDS, load=0.01)
    assert 8 <= len(process.passes) <= 10


def test_a_busy_process_has_none_until_it_is_quiet() -> None:
    process = Process()
    process.run(10 * PASS_SECONDS, load=QUIET_SHARE + 0.05)
    assert process.passes == []
    process.run(2 * LOOK_SECONDS + 1, load=0)
    assert len(process.passes) == 1


def test_long_passes_are_rare() -> None:
    process = Process(pass_seconds=0.5)
    process.run(3600, load=0)
    assert 1 < len(process.passes) <= 3600 / (0.5 / PASS_SHARE) + 1


async def test_i9_no_run_over_what_new_objects_leave_visits_very_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One in 400,000 publishes took 36 ms, because as many events were visited at once."""
    monkeypatch.setattr(gc, "freeze", lambda: None)  # it would hold the tests' garbage for good
    threshold = gc.get_threshold()
    gc.collect()
    relax_collector()
    most = 0

    def watch(phase: str, _info: dict[str, int]) -> None:
        nonlocal most
        if phase == "start":
            most = max(most, len(gc.get_objects(generation=0)) + len(gc.get_objects(generation=1)))

    gc.callbacks.append(watch)
    try:
        kept = [[number] for number in range(10 * COLLECT_AFTER)]
    finally:
        gc.callbacks.remove(watch)
        gc.set_threshold(*threshold)
    assert COLLECT_AFTER < most < 6 * COLLECT_AFTER < len(kept)


async def test_it_frees_a_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    monkeypatch.setattr("broker.process.collector.PASS_SECONDS", 0.0)
    monkeypatch.setattr("broker.process.collector.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("broker.process.collector.QUIET_SHARE", 100.0)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # it would hold the tests' garbage for good
    threshold = gc.get_threshold()
    relax_collector()
    gc.disable()
    try:
        Cycle()
        async with asyncio.timeout(WAIT_SECONDS):
            while any(isinstance(thing, Cycle) for thing in gc.get_objects()):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
        gc.set_threshold(*threshold)
