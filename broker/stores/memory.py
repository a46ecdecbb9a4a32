"""The store in memory: ids from the clock, the topics' logs as retention, delivery by direct call.

Rules: nothing here waits, so every method is atomic; the `async` is the contract's, for stores that do wait.
It is born when the process starts: a cursor from before is told `lost`.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker import sse
from broker.errors import RateLimited
from broker.events import SEQUENCE_BITS, Clock, EventId
from broker.log import Log
from broker.logs import Logs
from broker.start import Start
from broker.stores.base import Deliver, Health, Heed, Receipt, TopicState
from broker.topics import RetentionRules

KEY_OVERHEAD_BYTES = 250  # what Python needs for a remembered key beside its text, measured
SWEEP_SHARE = 60  # a sweep looks at this fraction of the logs, so all are seen within a minute
SWEEP_LEAST = 200


class MemoryStore:
    """See `stores.base.Store`.

    Args:
        clock: seconds since 1970; may step back, ids don't.
        max_log_bytes, max_topics, topic_memory_seconds: see `Logs`.
        idempotency_seconds: how long a key is remembered.
        max_key_bytes: bound on the memory of all keys.
    """

    name = "memory"

    def __init__(
        self,
        retention: RetentionRules,
        *,
        clock: Clock,
        max_log_bytes: int,
        max_topics: int,
        topic_memory_seconds: float,
        idempotency_seconds: float,
        max_key_bytes: int,
    ) -> None:
        self._clock = clock
        self.born: EventId = int(clock() * 1000) << SEQUENCE_BITS
        self._last: EventId = self.born
        self._logs = Logs(
            self.born,
            retention,
            max_bytes=max_log_bytes,
            max_topics=max_topics,
            topic_memory_seconds=topic_memory_seconds,
        )
        self._watched: set[str] = set()
        self._keys = _Keys(idempotency_seconds, max_key_bytes)
        self._deliver: Deliver = _nobody
        self._heed: Heed = _heedless

    async def start(self, deliver: Deliver, heed: Heed) -> None:
        self._deliver, self._heed = deliver, heed

    async def stop(self) -> None:
        self._deliver, self._heed = _nobody, _heedless

    @property
    def last_id(self) -> EventId:
        return self._last

    @property
    def complete_to(self) -> EventId:
        return self._last

    @property
    def log_bytes(self) -> int:
        return self._logs.bytes

    @property
    def topic_count(self) -> int:
        return len(self._logs)

    def _next_id(self, now: float) -> EventId:
        return max(int(now * 1000) << SEQUENCE_BITS, self._last + 1)

    async def publish(self, items: Sequence[tuple[str, bytes]], key: str | None = None) -> Receipt:
        if key is None:
            return Receipt(self._append(items))
        known = {topic: self._keys.get(topic, key, self._clock()) for topic, _ in items}
        fresh = [item for item in items if known[item[0]] is None]
        self._keys.check_room([topic for topic, _ in fresh], key)
        for (topic, _), event_id in zip(fresh, self._append(fresh), strict=True):
            known[topic] = event_id
            self._keys.put(topic, key, event_id, self._clock())
        return Receipt([event_id for event_id in known.values() if event_id is not None], replayed=not fresh)

    def _append(self, items: Sequence[tuple[str, bytes]]) -> list[EventId]:
        now = self._clock()
        event_id = self._next_id(now)
        ids = []
        grown: dict[str, int] = {}
        log, log_topic = None, ""
        for topic, lines in items:
            if log is None or topic != log_topic:
                log, log_topic = self._logs.open(topic, now), topic
            event_frame = sse.frame(lines, event_id)
            log.append(event_id, event_frame)
            grown[topic] = grown.get(topic, 0) + len(event_frame)
            ids.append(event_id)
            event_id += 1
        if ids:
            self._last = ids[-1]
        self._settle(grown, now)
        return ids

    def _settle(self, grown: dict[str, int], now: float) -> None:
        for topic, size in grown.items():
            log = self._logs.get(topic)
            if log is not None:  # else it was given up for one of the others
                self._logs.appended(topic, log, now)
            if topic in self._watched:
                self._deliver(topic, size)

    async def watch(self, topics: Sequence[str], start: Start) -> Sequence[Log]:
        self._watched.update(topics)
        return [self._logs.pin(topic, self._clock()) for topic in topics]

    def unwatch(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if self._logs.unpin(topic):
                self._watched.discard(topic)

    def is_lost(self, cursor: EventId) -> bool:
        return False  # it never goes back: a new one is born

    def resume(self) -> None:
        """It brings what publishers bring, and who is delivered to lets those wait."""

    def written(self, topic: str) -> None:
        log = self._logs.get(topic)
        if log is not None:
            self._logs.trim(topic, log, self._clock())

    async def delete(self, topic: str) -> None:
        log = self._logs.get(topic)
        if log is None:
            return
        now = self._clock()
        self._last = self._next_id(now)
        frame = sse.control("broker.end", {"topic": topic, "reason": "deleted"}, self._last)
        log.clear(self._last, frame)
        self._settle({topic: len(frame)}, now)

    async def tell(self, notice: str, until: float | None = None) -> None:
        self._heed(notice)  # there is no other instance, and who comes later begins with nothing

    def hold(self, name: str, count: int) -> None:
        """There is no other instance that should know."""

    async def held_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        return [0] * len(names)

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        return [self._describe(topic) for topic in topics]

    def _describe(self, topic: str) -> TopicState:
        log, watching = self._logs.get(topic), self._logs.pins(topic)
        if log is None:
            return TopicState(topic, watching, 0, 0, None, None)
        self._logs.trim(topic, log, self._clock())
        first, _, count, size = log.visible()
        last_id = log.last if log.named else None
        return TopicState(topic, watching, count, size, first.id if first else None, last_id)

    async def topics(self, after: str, limit: int) -> Sequence[str]:
        return self._logs.names_after(after, limit)

    def sweep(self) -> None:
        now = self._clock()
        self._logs.sweep(now, SWEEP_LEAST + len(self._logs) // SWEEP_SHARE)
        self._keys.sweep(now)

    @property
    def health(self) -> Health:
        return Health()

    def checks(self) -> dict[str, str]:
        return {"store": "ok"}


class _Keys:
    """Idempotency keys by topic, with the id that each brought; the oldest first, within a bound of bytes."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._ids: dict[tuple[str, str], tuple[EventId, float]] = {}

    def get(self, topic: str, key: str, now: float) -> EventId | None:
        self.sweep(now)
        known = self._ids.get((topic, key))
        return None if known is None else known[0]

    def check_room(self, topics: Sequence[str], key: str) -> None:
        if self._bytes + sum(_key_bytes(topic, key) for topic in topics) > self._max_bytes:
            raise RateLimited(
                "Too many idempotency keys are remembered; try again later, or publish without a key.",
                retry_after=max(1, int(self._seconds / 10)),
            )

    def put(self, topic: str, key: str, event_id: EventId, now: float) -> None:
        self._ids[topic, key] = event_id, now
        self._bytes += _key_bytes(topic, key)

    def sweep(self, now: float) -> None:
        """Forget keys that are old enough, and those that a clock which stepped back left far in the future."""
        while self._ids:
            (topic, key), (_, since) = next(iter(self._ids.items()))
            if abs(now - since) < self._seconds:
                return
            del self._ids[topic, key]
            self._bytes -= _key_bytes(topic, key)


def _key_bytes(topic: str, key: str) -> int:
    return len(topic) + len(key) + KEY_OVERHEAD_BYTES


def _nobody(_topic: str, _size: int) -> bool:
    """Before `start` and after `stop` nobody is delivered to."""
    return True


def _heedless(_notice: str) -> None:
    """Before `start` and after `stop` nobody is told anything."""
