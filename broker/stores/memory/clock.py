"""The clock of the store in memory, and what it says of ids.

Rules: reads the clock, and corrects the timeline when the clock steps back. The store takes all its times from here.
"""

from __future__ import annotations

import logging

from broker.events import SEQUENCE_BITS, Clock, EventId
from broker.log.table import LogTable
from broker.log.timeline import STEP_SECONDS

_logger = logging.getLogger("broker")


class MemoryClock:
    """Seconds since 1970, as the clock shows them, and the ids that follow from them.

    Attributes:
        now: what it showed last; the store's sweeps look at it every second.
        steady: a time that goes on at the clock's pace when the clock leaps, forth or back: for what expires.
    """

    def __init__(self, clock: Clock, table: LogTable) -> None:
        self._clock = clock
        self._table = table
        self._ahead = 0.0  # of the newest correction, in seconds
        self.now = clock()
        self.steady = self.now
        self._latest = self.now  # with what ids were ahead
        self._newest = self.now  # the highest `steady` time so far; no id is later

    def __call__(self) -> float:
        now = self._clock()
        if self._ahead or now < self._newest - STEP_SECONDS:
            self._fit(now)
        if now + self._ahead > self._newest:
            self._newest = now + self._ahead
        elapsed = now + self._ahead - self._latest
        self._latest += elapsed
        if 0 < elapsed < STEP_SECONDS:
            self.steady += elapsed
        self.now = now
        return now

    def next_id(self, now: float, last: EventId) -> EventId:
        """The id at `now`, which this clock has just shown, that follows `last`."""
        return max(int((now + self._ahead) * 1000) << SEQUENCE_BITS, last + 1)

    def _fit(self, now: float) -> None:
        timeline = self._table.timeline
        if timeline.fit(int(self._newest * 1000), int(now * 1000)):
            self._table.correct(timeline.corrections)
            self._ahead = timeline.ahead_ms / 1000
            _logger.warning("%s", timeline.warning)
