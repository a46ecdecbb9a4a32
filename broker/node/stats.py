"""Publishes the figures of this instance to the topic `_stats` while that topic has a subscriber on any instance.

Rules: an instance with a subscriber of `_stats` asks all instances, every few seconds, to publish. Otherwise no instance does.
There are two types of events, each with one instance's figures as JSON: `now`, every second, and `past`, the last 15 minutes,
every 30 seconds. Counts are totals since the instance started, so a reader that misses events still gets the right rates.

A reader that begins 45 seconds ago has the `past` of every instance (`topics.STATS_RETENTION`), or gets it within two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

from broker import sse
from broker.errors import Unavailable
from broker.stores.base import Topics
from broker.topics import STATS_TOPIC

PERIOD_SECONDS = 1.0
STEP_SECONDS = 5
"""Seconds between two samples of the past."""
STEPS = 15 * 60 // STEP_SECONDS
ASK_SECONDS = 5.0
SHOW_SECONDS = 3 * ASK_SECONDS
"""How long an instance publishes after it was asked: one lost command doesn't stop it."""
PAST_SECONDS = 30.0


class Sample(NamedTuple):
    """The figures of one moment that a chart shows. Counts are totals.

    Attributes:
        at: loop time in seconds.
        gaps, closes, refusals: by reason; only reasons that have occurred.
        p50_ms, p99_ms: from publishing to the last subscriber's write, of the events since the sample before; None without any.
        lag_ms: the longest lag of the event loop within the last two seconds.
    """

    at: float
    streams: int
    published: int
    delivered: int
    resumed: int
    gaps: Mapping[str, int]
    closes: Mapping[str, int]
    refusals: Mapping[str, int]
    p50_ms: float | None
    p99_ms: float | None
    lag_ms: float


class Figures(Protocol):
    """The figures of this instance."""

    @property
    def instance(self) -> str:
        """A name that no other instance has."""

    def sample(self) -> Sample:
        """The figures for charts; called every `STEP_SECONDS`."""

    def all(self) -> Mapping[str, object]:
        """All figures, as a JSON object with `instance`; called once a second while `_stats` has a subscriber."""


class Stats:
    """Samples the figures, and publishes them on request.

    Args:
        viewers: how many read `_stats` here.
        ask: sends `ShowStats` to all instances.
    """

    def __init__(
        self,
        topics: Topics,
        figures: Figures,
        viewers: Callable[[], int],
        ask: Callable[[], Awaitable[None]],
    ) -> None:
        self._topics = topics
        self._figures = figures
        self._viewers = viewers
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._past: deque[Sample] = deque(maxlen=STEPS)
        self._show_until = self._asked_at = self._past_at = -SHOW_SECONDS
        self._wake = asyncio.Event()
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to sample; returns the task that publishes."""
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick, self._loop.time() + PERIOD_SECONDS)
        self._task = asyncio.create_task(self._publish_for_ever(), name="broker stats")
        return self._task

    async def stop(self) -> None:
        """Publish no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def is_shown(self) -> bool:
        """Whether `_stats` has a subscriber, or had one a moment ago."""
        return self._loop.time() < self._show_until

    def show(self) -> None:
        """Publish for a while, beginning now."""
        was_shown = self.is_shown
        self._show_until = self._loop.time() + SHOW_SECONDS
        if not was_shown:
            self._wake.set()

    def _tick(self, due: float) -> None:
        if self._ticks % STEP_SECONDS == 0:
            self._past.append(self._figures.sample())
        self._ticks += 1
        if self.is_shown or self._viewers():
            self._wake.set()
        following = max(due + PERIOD_SECONDS, self._loop.time())
        self._timer = self._loop.call_at(following, self._tick, following)

    async def _publish_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(Unavailable):  # no subscriber could get them; readiness says why
                await self._publish()

    async def _publish(self) -> None:
        now = self._loop.time()
        if self._viewers() and now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            await self._ask()
        if not self.is_shown:
            return
        events = [_event("now", self._figures.all())]
        if now - self._past_at >= PAST_SECONDS:
            self._past_at = now
            events.insert(0, _event("past", self._summary(now)))
        await self._topics.publish([(STATS_TOPIC, lines) for lines in events])

    def _summary(self, now: float) -> Mapping[str, object]:
        """The past as columns, oldest first; `age` is in seconds."""
        past, columns = self._past, dict[str, object]()
        for name in ("streams", "published", "delivered", "resumed", "p50_ms", "p99_ms", "lag_ms"):
            columns[name] = [_short(getattr(sample, name)) for sample in past]
        for name in ("gaps", "closes", "refusals"):
            by_reason: list[Mapping[str, int]] = [getattr(sample, name) for sample in past]
            reasons = by_reason[-1] if by_reason else ()
            columns[name] = {reason: [counts.get(reason, 0) for counts in by_reason] for reason in reasons}
        ages = [round(now - sample.at, 1) for sample in past]
        return {"instance": self._figures.instance, "age": ages, **columns}


def _short(value: object) -> object:
    """A number, without most of its fraction. Compiled, a parameter annotated as a float would refuse integers here."""
    return round(value, 3) if isinstance(value, float) else value


def _event(event_type: str, value: Mapping[str, object]) -> bytes:
    return sse.lines(json.dumps(value, separators=(",", ":")).encode(), event_type)
