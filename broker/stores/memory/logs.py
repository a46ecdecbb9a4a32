"""The logs of the store in memory, and delivery from them to this instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

from broker.events import EventId
from broker.log.log import Log
from broker.log.start import Start
from broker.log.table import LogTable
from broker.log.timeline import Timeline
from broker.stores.base import NO_OWNER, StoreOwner
from broker.stores.memory.clock import MemoryClock


class MemoryLogs:
    """Implements `WatchedLogs`. The logs are the store itself, so they are always complete.

    Attributes:
        last_id: the newest id; `MemoryTopics` raises it.
        owner: deliveries go to it.
    """

    def __init__(self, table: LogTable, clock: MemoryClock) -> None:
        self.born = self.last_id = table.born
        self.timeline: Timeline = table.timeline
        self.owner: StoreOwner = NO_OWNER
        self._table = table
        self._clock = clock
        self._watched: set[str] = set()

    @property
    def received_to(self) -> EventId:
        return self.last_id

    @property
    def complete_to(self) -> EventId:
        return self.last_id

    def is_lost(self, cursor: EventId) -> bool:
        return False  # this store never goes back: a new one is born

    async def watch(self, topics: Sequence[str], start: Start, *, current: bool = False) -> Sequence[Log]:
        self._watched.update(topics)
        return [self._table.pin(topic, self._clock()) for topic in topics]

    def unwatch(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if self._table.unpin(topic):
                self._watched.discard(topic)

    def trim(self, topic: str) -> None:
        log = self._table.get(topic)
        if log is not None:
            self._table.trim(topic, log, self._clock.now)  # called for each event

    def resume(self) -> None:
        """Does nothing: the node makes the publishers wait."""

    def grown(self, sizes: Mapping[str, int], now: float, published_at: float | None = None) -> None:
        """Apply the limits to logs that grew, then deliver. `sizes`: bytes of frames by topic.

        `published_at`, by `time.monotonic`; 0 for this moment, and None if nothing was published.
        """
        for topic, size in sizes.items():
            log = self._table.get(topic)
            if log is not None:  # else it was given up to make room for another of them
                self._table.appended(topic, log, now)
            if topic in self._watched:
                at = 0.0 if published_at is None else published_at or monotonic()
                self.owner.delivered(topic, size, at)

    def log_grown(self, topic: str, log: Log, size: int, now: float) -> None:
        """The same for a few events that are published at this moment, but first delivered: if they are written at once, the log is trimmed at once."""
        if topic in self._watched:
            self.owner.delivered_at_once(topic, size)
        self._table.appended(topic, log, now)
