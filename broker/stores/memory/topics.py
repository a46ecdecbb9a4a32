"""Publish to the topics of the store in memory, close, delete and describe them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from broker import sse
from broker.errors import Closed
from broker.events import EventId
from broker.log.producers import ProducerSequences
from broker.log.table import LogTable
from broker.stores.base import CLOSED, NO_OPTIONS, Item, PublishOptions, Receipt, TopicState
from broker.stores.idempotency import IdempotencyKeys
from broker.stores.leases import Leases
from broker.stores.memory.clock import MemoryClock
from broker.stores.memory.logs import MemoryLogs
from broker.stores.terms import TopicTerms

CLOSES_PER_TURN = 50  # about 1 ms
SLICE_TOPICS = 256
"""Described in one turn of the loop; about 0.5 ms."""


class MemoryTopics:
    """Implements `Topics` on the logs of `table`.

    Args:
        keys: swept by the store.
    """

    is_behind = False  # it answers at once

    def __init__(
        self, table: LogTable, logs: MemoryLogs, keys: IdempotencyKeys, leases: Leases, clock: MemoryClock
    ) -> None:
        self._table = table
        self._logs = logs
        self._keys = keys
        self._leases = leases
        self._clock = clock
        self._has_ends = False  # whether a topic was ever closed: most brokers needn't look for one

    async def publish(
        self,
        items: Sequence[Item],
        key: str | None = None,
        options: PublishOptions = NO_OPTIONS,
        published_at: float = 0.0,
    ) -> Receipt:
        if key is not None or options is not NO_OPTIONS:
            return self._publish_with(items, key, options, published_at)
        if self._has_ends:
            self._check_open({topic for topic, _ in items})
        return Receipt(self._append(items, published_at))

    def publish_at_once(self, topic: str, events: Sequence[bytes]) -> EventId:
        now = self._clock()
        log = self._table.get(topic)
        if log is None:
            log = self._table.open(topic, now)
        elif log.end is not None:
            raise Closed([topic])
        logs = self._logs
        event_id = self._clock.next_id(now, logs.last_id)
        size = 0
        for lines in events:
            frame = sse.frame(lines, event_id)
            log.append(event_id, frame)
            size += len(frame)
            event_id += 1
        logs.last_id = event_id - 1
        logs.log_grown(topic, log, size, now)
        return event_id - 1

    def _publish_with(
        self, items: Sequence[Item], key: str | None, options: PublishOptions, published_at: float
    ) -> Receipt:
        now = self._clock()
        replayed = self._replayed(items, key, self._clock.steady)
        fresh = [item for item in items if item[0] not in replayed]
        known = self._known(fresh, options)
        fresh = fresh[known:]
        topics = list(dict.fromkeys(topic for topic, _ in fresh))
        self._check_open(topics)
        if key is not None:
            self._keys.check_room(topics, key)
        ends = [topic for topic in options.ends if topic not in replayed and not self._is_closed(topic)]
        ids = self._append(fresh, published_at, ends, options.reason, options.retain_seconds)
        if options.producer is not None and len(items) > known:
            self._advance_producer(*options.producer, items)
        if not items:
            ids = [self._table.open(topic, now).last for topic in options.ends]
        elif key is not None:
            ids = self._remember(key, items, replayed, dict(zip(topics, ids, strict=True)))
        return Receipt(
            ids,
            replayed=bool(replayed) and not fresh,
            closed=bool(options.ends) and all(map(self._is_closed, options.ends)),
            known=known,
        )

    def _replayed(self, items: Sequence[Item], key: str | None, now: float) -> dict[str, EventId]:
        """By topic, the id that the same idempotency key got before."""
        if key is None:
            return {}
        ids = {topic: self._keys.get(topic, key, now) for topic, _ in items}
        return {topic: event_id for topic, event_id in ids.items() if event_id is not None}

    def _remember(
        self,
        key: str,
        items: Sequence[Item],
        replayed: Mapping[str, EventId],
        published: Mapping[str, EventId],
    ) -> list[EventId]:
        """Remember the ids that `key` got now; returns those of all topics, in the order of the items."""
        for topic, event_id in published.items():
            self._keys.put(topic, key, event_id, self._clock.steady)
        ids = {**replayed, **published}
        return [ids[topic] for topic in dict.fromkeys(topic for topic, _ in items)]

    def _known(self, items: Sequence[Item], options: PublishOptions) -> int:
        """How many of `items` their producer has published before."""
        if options.producer is None:
            return 0
        log = self._table.get(items[0][0] if items else options.ends[0])
        sequences = (log.producers if log is not None else None) or ProducerSequences()
        return sequences.known(*options.producer, len(items))

    def _advance_producer(self, name: str, first: int, items: Sequence[Item]) -> None:
        log = self._table.get(items[0][0])
        if log is not None:
            log.producers = log.producers or ProducerSequences()
            log.producers.advance(name, first + len(items))

    def _check_open(self, topics: Iterable[str]) -> None:
        closed = [topic for topic in topics if self._is_closed(topic)]
        if closed:
            raise Closed(closed)

    def _is_closed(self, topic: str) -> bool:
        log = self._table.get(topic)
        return log is not None and log.end is not None

    def _append(
        self,
        items: Sequence[Item],
        published_at: float,
        ends: Sequence[str] = (),
        reason: str = CLOSED,
        retain_seconds: float | None = None,
    ) -> list[EventId]:
        """Append `items`, then end the topics in `ends`, which are open, with `reason`; returns the ids of the items."""
        now = self._clock()
        event_id = self._clock.next_id(now, self._logs.last_id)
        ids = []
        sizes: dict[str, int] = {}
        log, log_topic = None, ""
        for topic, lines in items:
            if log is None or topic != log_topic:
                log, log_topic = self._table.open(topic, now), topic
                if retain_seconds is not None:
                    self._table.open_with_retention(log, retain_seconds)
            frame = sse.frame(lines, event_id)
            log.append(event_id, frame)
            sizes[topic] = sizes.get(topic, 0) + len(frame)
            ids.append(event_id)
            event_id += 1
        for topic in ends:
            sizes[topic] = sizes.get(topic, 0) + self._append_end(topic, reason, event_id, now)
            event_id += 1
        if sizes:
            self._logs.last_id = event_id - 1
            self._logs.grown(sizes, now, published_at)
        return ids

    def _append_end(self, topic: str, reason: str, event_id: EventId, now: float) -> int:
        """Append the end; returns its frame's size in bytes."""
        self._has_ends = True
        frame = sse.end(topic, reason, event_id)
        self._table.open(topic, now).close(event_id, frame)
        self._leases.drop(topic)
        return len(frame)

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        return self._close(topic, reason, if_last)

    def _close(self, topic: str, reason: str, if_last: EventId | None = None) -> EventId | None:
        log = self._table.get(topic)
        if log is not None and log.end is not None:
            return log.last
        if if_last is not None and (log is None or log.last != if_last):
            return None
        now = self._clock()
        end_id = self._logs.last_id = self._clock.next_id(now, self._logs.last_id)
        self._logs.grown({topic: self._append_end(topic, reason, end_id, now)}, now)
        return end_id

    async def lease(self, topic: str, seconds: float | None) -> None:
        if seconds is None:
            self._leases.drop(topic)
        elif not self._is_closed(topic):
            self._clock()
            self._leases.take(topic, self._clock.steady + seconds)

    def close_abandoned(self) -> None:
        """Close the topics of expired leases, a few in each turn of the loop: all producers of an instance may be gone at once."""
        self._clock()
        topics = self._leases.expired(self._clock.steady, CLOSES_PER_TURN)
        for topic in topics:
            self._close(topic, "abandoned")
        if len(topics) == CLOSES_PER_TURN:
            asyncio.get_running_loop().call_soon(self.close_abandoned)

    async def delete(self, topic: str) -> None:
        log = self._table.get(topic)
        self._leases.drop(topic)
        if log is None:
            return
        now = self._clock()
        end_id = self._logs.last_id = self._clock.next_id(now, self._logs.last_id)
        frame = sse.end(topic, "deleted", end_id)
        log.clear(end_id, frame)
        self._table.retain(topic, log, None)
        self._logs.grown({topic: len(frame)}, now)

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        states = []
        for topic in topics:
            states.append(self._describe(topic))
            if not len(states) % SLICE_TOPICS:
                await asyncio.sleep(0)
        return states

    def _describe(self, topic: str) -> TopicState:
        log, subscribers = self._table.get(topic), self._table.pins(topic)
        if log is None:
            return TopicState(topic, subscribers, 0, 0, None, None)
        self._table.trim(topic, log, self._clock())
        first, _, count, size = log.visible()
        return TopicState(
            topic,
            subscribers,
            events=count,
            bytes=size,
            first_id=first.id if first else None,
            last_id=log.last if log.named else None,
            closed=log.end is not None,
        )

    async def names(self, after: str, limit: int) -> Sequence[str]:
        return self._table.names_after(after, limit)

    async def count(self) -> int:
        return self._table.count_names(without="_")

    async def terms(self, topic: str) -> TopicTerms:
        log = self._table.get(topic)
        self._clock()
        until = self._leases.until(topic)
        return TopicTerms(
            self._table.retention_of(topic) if log is None else log.retention,
            None if until is None else max(0.0, until - self._clock.steady),
        )
