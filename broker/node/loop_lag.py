"""Measures how late the event loop runs its timers: while one thing takes long, all others wait."""

from __future__ import annotations

import asyncio
from time import monotonic

from broker.metrics import Metrics

PERIOD_SECONDS = 0.1
WINDOW_TICKS = 20
"""`loop_lag_max` is the longest lag of this many measurements, or of the ones since."""


class LoopLag:
    """Measures ten times a second, from `start` to `stop`, into `metrics`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self._metrics = metrics
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ticks = 0
        self._longest = 0.0  # of this window

    def start(self) -> None:
        self._due = self._loop.time() + PERIOD_SECONDS
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        # The loop's own time is that of the start of this turn; the clock behind it is the same.
        lag = max(0.0, monotonic() - self._due)
        metrics = self._metrics
        metrics.loop_lag.observe(lag)
        self._ticks += 1
        self._longest = max(self._longest, lag)
        metrics.loop_lag_max = max(metrics.loop_lag_max, lag)
        if self._ticks % WINDOW_TICKS == 0:
            metrics.loop_lag_max, self._longest = self._longest, 0.0
        self.start()
