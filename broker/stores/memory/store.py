"""The store in memory as a whole: its parts and its lifecycle."""

from __future__ import annotations

from collections.abc import Sequence

from broker.events import SEQUENCE_BITS, Clock
from broker.log.table import LogTable
from broker.stores.base import NO_OWNER, StoreOwner
from broker.stores.idempotency import IdempotencyKeys
from broker.stores.leases import Leases
from broker.stores.memory.clock import MemoryClock
from broker.stores.memory.logs import MemoryLogs
from broker.stores.memory.topics import MemoryTopics
from broker.stores.stats import StoreStats
from broker.topics import RetentionRules

SWEEP_SHARE = 60  # a sweep visits this fraction of the logs, so that all are visited within a minute
SWEEP_MIN_LOGS = 200


class NoOtherInstances:
    """`Broadcast` and `Counters` of a store that only this instance uses."""

    def __init__(self, logs: MemoryLogs) -> None:
        self._logs = logs

    async def send(self, command: str, until: float | None = None, *, droppable: bool = False) -> int:
        self._logs.owner.on_broadcast(command)
        return 1

    def set_count(self, name: str, count: int) -> None:
        """Does nothing: no other instance asks for counts."""

    async def counts_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        return [0] * len(names)


class MemoryStore:
    """Keeps everything in this process; implements `Store`.

    Args:
        clock: seconds since 1970; may step back, ids don't (`log.timeline`).
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
        self._table = LogTable(
            int(clock() * 1000) << SEQUENCE_BITS,
            retention,
            max_bytes=max_log_bytes,
            max_topics=max_topics,
            topic_memory_seconds=topic_memory_seconds,
        )
        self._clock = MemoryClock(clock, self._table)
        self._keys = IdempotencyKeys(idempotency_seconds, max_key_bytes)
        self.logs = MemoryLogs(self._table, self._clock)
        self.topics = MemoryTopics(self._table, self.logs, self._keys, Leases(), self._clock)
        self.broadcast = self.counters = NoOtherInstances(self.logs)

    async def start(self, owner: StoreOwner) -> None:
        self.logs.owner = owner

    async def stop(self) -> None:
        self.logs.owner = NO_OWNER

    def sweep(self) -> None:
        now = self._clock()
        self._table.sweep(now, SWEEP_MIN_LOGS + len(self._table) // SWEEP_SHARE)
        self._keys.sweep(self._clock.steady)
        self.topics.close_abandoned()

    @property
    def stats(self) -> StoreStats:
        return StoreStats(self._table.bytes, len(self._table), self._table.max_bytes)

    def checks(self) -> dict[str, str]:
        return {"store": "ok"}
