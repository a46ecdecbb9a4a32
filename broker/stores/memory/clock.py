"""The clock of the store in memory. It corrects the timeline when the clock leaps.

Rules: the store takes all its times, and its ids, from here.
"""

from __future__ import annotations

import logging

from broker.events import SEQUENCE_BITS, Clock, EventId
from broker.log.table import LogTable
from broker.log.timeline import STEP_SECONDS

_logger = logging.getLogger("broker")


class MemoryClock:
    """Returns seconds since 1970 when called, and makes ids from them.

    Attributes:
        now: the last time read; the store's sweeps read the clock every second.
        steady: a time in seconds that ignores leaps, for everything that expires.
    """

    def __init__(self, clock: Clock, table: LogTable) -> None:
        self._clock = clock
        self._table = table
        self._ahead = 0.0  # how far ids are, in seconds
        self.now = self.steady = clock()
        self._newest = self.now  # no id was later when the clock last leapt

    def __call__(self) -> float:
        now = self._clock()
        elapsed = now - self.now
        if self._ahead or not 0 <= elapsed < STEP_SECONDS:
            elapsed = self._leap(now)
        self.steady += elapsed
        self.now = now
        return now

    def next_id(self, now: float, last: EventId) -> EventId:
        """The id after `last` at `now`, which this clock has just returned."""
        event_id = int((now + self._ahead) * 1000) << SEQUENCE_BITS
        return event_id if event_id > last else last + 1

    def _leap(self, now: float) -> float:
        """Correct the timeline, if needed. Returns the seconds that have passed; 0 if the leap hides them."""
        before = self.now + self._ahead
        self._newest = max(self._newest, before)
        timeline = self._table.timeline
        if timeline.fit(int(self._newest * 1000), int(now * 1000)):
            self._table.correct(timeline.corrections)
            self._ahead = timeline.ahead_ms / 1000
            _logger.warning("%s", timeline.warning)
        elapsed = now + self._ahead - before
        return elapsed if 0 < elapsed < STEP_SECONDS else 0.0
