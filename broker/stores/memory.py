"""The store in memory: ids from the clock, the topics' logs as retention, delivery by direct call.

Rules: nothing here waits, so every method is atomic; the `async` is the contract's, for stores that do wait.
It is born when the process starts: a cursor from before is told `lost`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker import sse
from broker.errors import Closed
from broker.events import SEQUENCE_BITS, Clock, EventId
from broker.log.log import Log
from broker.log.producers import ProducerSequences
from broker.log.start import Start
from broker.log.table import LogTable
from broker.stores.base import PLAIN, Deliver, Health, Item, OnBroadcast, PublishOptions, Receipt, TopicState
from broker.stores.idempotency import IdempotencyKeys
from broker.stores.leases import Leases
from broker.topics import RetentionRules

SWEEP_SHARE = 60  # a sweep looks at this fraction of the logs, so all are seen within a minute
SWEEP_LEAST = 200


class MemoryStore:
    """See `stores.base.Store`.

    Args:
        clock: seconds since 1970; may step back, ids don't.
        max_log_bytes, max_topics, topic_memory_seconds: see `LogTable`.
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
        self._logs = LogTable(
            self.born,
            retention,
            max_bytes=max_log_bytes,
            max_topics=max_topics,
            topic_memory_seconds=topic_memory_seconds,
        )
        self._watched: set[str] = set()
        self._keys = IdempotencyKeys(idempotency_seconds, max_key_bytes)
        self._leases = Leases()
        self._has_ends = False  # whether a topic has ever ended here: most brokers needn't look for one
        self._deliver: Deliver = _nobody
        self._on_broadcast: OnBroadcast = _heedless

    async def start(self, deliver: Deliver, on_broadcast: OnBroadcast) -> None:
        self._deliver, self._on_broadcast = deliver, on_broadcast

    async def stop(self) -> None:
        self._deliver, self._on_broadcast = _nobody, _heedless

    @property
    def last_id(self) -> EventId:
        return self._last

    @property
    def received_to(self) -> EventId:
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

    async def publish(
        self, items: Sequence[Item], key: str | None = None, asked: PublishOptions = PLAIN
    ) -> Receipt:
        if key is None and asked is PLAIN:
            if self._has_ends:
                self._check_open({topic for topic, _ in items})
            return Receipt(self._append(items))
        return self._publish_asked(items, key, asked)

    def _publish_asked(self, items: Sequence[Item], key: str | None, asked: PublishOptions) -> Receipt:
        now = self._clock()
        first = {} if key is None else {topic: self._keys.get(topic, key, now) for topic, _ in items}
        fresh = [item for item in items if first.get(item[0]) is None]
        known = self._known(fresh, asked)
        fresh = fresh[known:]
        topics = dict.fromkeys(topic for topic, _ in fresh)
        self._check_open(topics)
        if key is not None:
            self._keys.check_room(list(topics), key)
        ends = [topic for topic in asked.ends if first.get(topic) is None and not self._has_ended(topic)]
        ids = self._append(fresh, ends, asked.retain_seconds)
        if len(items) > known:
            self._went_on(asked, items)
        if key is not None:
            for (topic, _), event_id in zip(fresh, ids, strict=True):
                first[topic] = event_id
                self._keys.put(topic, key, event_id, now)
            ids = [event_id for event_id in first.values() if event_id is not None]
        if not items:
            ids = [self._logs.open(topic, now).last for topic in asked.ends]
        return Receipt(
            ids,
            replayed=bool(first) and not fresh,
            closed=bool(asked.ends) and all(map(self._has_ended, asked.ends)),
            known=known,
        )

    def _check_open(self, topics: Iterable[str]) -> None:
        find = self._logs.get
        ended = [topic for topic in topics if (log := find(topic)) is not None and log.end is not None]
        if ended:
            raise Closed(ended)

    def _has_ended(self, topic: str) -> bool:
        log = self._logs.get(topic)
        return log is not None and log.end is not None

    def _known(self, items: Sequence[Item], asked: PublishOptions) -> int:
        """How many of `items` their producer has published before."""
        if asked.producer is None:
            return 0
        log = self._logs.get(_topic_of(items, asked))
        producers = (log.producers if log is not None else None) or ProducerSequences()
        return producers.known(*asked.producer, len(items))

    def _went_on(self, asked: PublishOptions, items: Sequence[Item]) -> None:
        log = self._logs.get(_topic_of(items, asked))
        if asked.producer is not None and items and log is not None:
            log.producers = log.producers or ProducerSequences()
            name, first = asked.producer
            log.producers.went_on(name, first + len(items))

    def _append(
        self, items: Sequence[Item], ends: Sequence[str] = (), retain_seconds: float | None = None
    ) -> list[EventId]:
        """Append `items`, then the ends of topics that are open; returns the ids of the items."""
        now = self._clock()
        event_id = self._next_id(now)
        ids = []
        grown: dict[str, int] = {}
        log, log_topic = None, ""
        for topic, lines in items:
            if log is None or topic != log_topic:
                log, log_topic = self._logs.open(topic, now), topic
                if retain_seconds is not None:
                    self._logs.ask(log, retain_seconds)
            event_frame = sse.frame(lines, event_id)
            log.append(event_id, event_frame)
            grown[topic] = grown.get(topic, 0) + len(event_frame)
            ids.append(event_id)
            event_id += 1
        for topic in ends:
            grown[topic] = grown.get(topic, 0) + self._end(topic, "closed", event_id, now)
            event_id += 1
        if grown:
            self._last = event_id - 1
        self._settle(grown, now)
        return ids

    def _end(self, topic: str, reason: str, event_id: EventId, now: float) -> int:
        """The bytes of what ends `topic`."""
        self._has_ends = True
        frame = sse.end(topic, reason, event_id)
        self._logs.open(topic, now).close(event_id, frame)
        self._leases.drop(topic)
        return len(frame)

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        return self._close(topic, reason, if_last)

    def _close(self, topic: str, reason: str, if_last: EventId | None = None) -> EventId | None:
        log = self._logs.get(topic)
        if log is not None and log.end is not None:
            return log.last
        if if_last is not None and (log is None or log.last != if_last):
            return None
        now = self._clock()
        end_id = self._last = self._next_id(now)
        self._settle({topic: self._end(topic, reason, end_id, now)}, now)
        return end_id

    async def lease(self, topic: str, seconds: float | None) -> None:
        if seconds is None:
            self._leases.drop(topic)
        elif not self._has_ended(topic):
            self._leases.take(topic, self._clock() + seconds)

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
        self._leases.drop(topic)
        if log is None:
            return
        now = self._clock()
        self._last = self._next_id(now)
        frame = sse.end(topic, "deleted", self._last)
        log.clear(self._last, frame)
        self._logs.retain(topic, log, None)
        self._settle({topic: len(frame)}, now)

    async def tell(self, notice: str, until: float | None = None) -> None:
        self._on_broadcast(notice)  # there is no other instance, and who comes later begins with nothing

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
        closed = log.end is not None
        return TopicState(topic, watching, count, size, first.id if first else None, last_id, closed)

    async def topics(self, after: str, limit: int) -> Sequence[str]:
        return self._logs.names_after(after, limit)

    def sweep(self) -> None:
        now = self._clock()
        self._logs.sweep(now, SWEEP_LEAST + len(self._logs) // SWEEP_SHARE)
        self._keys.sweep(now)
        for topic in self._leases.due(now):
            self._close(topic, "abandoned")

    @property
    def health(self) -> Health:
        return Health()

    def checks(self) -> dict[str, str]:
        return {"store": "ok"}


def _topic_of(items: Sequence[Item], asked: PublishOptions) -> str:
    return items[0][0] if items else asked.ends[0]


def _nobody(_topic: str, _size: int) -> bool:
    """Before `start` and after `stop` nobody is delivered to."""
    return True


def _heedless(_notice: str) -> None:
    """Before `start` and after `stop` nobody is told anything."""
