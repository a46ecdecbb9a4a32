"""The topics with subscribers on this instance. Each has a replica, made ready for the subscribers' starts.

Rules: counts the watches of each topic. `preparation` waits for replicas, `catch_up` reads, `replicas` keeps the state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from broker.errors import Unavailable
from broker.events import Clock, EventId
from broker.log.log import Log
from broker.log.start import Start
from broker.log.table import LogTable
from broker.log.timeline import Timeline
from broker.stores.redis.catch_up import CatchUp
from broker.stores.redis.connections import Connections
from broker.stores.redis.counters import RedisCounters
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.names import Names
from broker.stores.redis.preparation import Preparation
from broker.stores.redis.replica import TopicReplica
from broker.stores.redis.replicas import Replicas

WATCH_SECONDS = 0.9
UNUSED_SECONDS = 40.0  # a refused EventSource comes back within 30
MAX_UNUSED = 20_000
SWEEP_FRACTION = 60  # a sweep trims one log in so many, so each is trimmed within a minute
MIN_SWEEP = 200


class Watches:
    """This instance's logs: `stores.base.WatchedLogs`."""

    def __init__(
        self,
        names: Names,
        connections: Connections,
        logs: LogTable,
        replicas: Replicas,
        catch_up: CatchUp,
        subscribers: RedisCounters,
        delivery: Delivery,
        clock: Clock,
    ) -> None:
        self._names = names
        self._connections = connections
        self._logs = logs
        self._replicas = replicas
        self._catch_up = catch_up
        self._subscribers = subscribers
        self._delivery = delivery
        self._clock = clock
        self._watchers: dict[str, int] = {}
        self._unused: dict[str, float] = {}  # replicas without subscribers, since when; the longest first

    @property
    def born(self) -> EventId:
        return self._replicas.history.born

    @property
    def last_id(self) -> EventId:
        return self._connections.seen.value

    @property
    def received_to(self) -> EventId:
        return self._replicas.received_to.value

    @property
    def complete_to(self) -> EventId:
        return self._replicas.complete_to.value

    @property
    def timeline(self) -> Timeline:
        return self._replicas.timeline

    def is_lost(self, cursor: EventId) -> bool:
        return self._replicas.history.is_lost(cursor)

    def resume(self) -> None:
        self._delivery.resume()

    async def watch(self, topics: Sequence[str], start: Start, *, current: bool = False) -> Sequence[Log]:
        replicas = [self.add_watcher(topic) for topic in topics]
        preparation = Preparation(
            replicas, start, self._connections, self._replicas, self._catch_up, is_current=current
        )
        if not preparation.is_finished:
            try:
                await asyncio.create_task(_run(preparation))  # the caller may run without a task
            except TimeoutError:
                self.unwatch(topics)
                problem = self._connections.problem or "it doesn't answer in time"
                raise Unavailable(f"The store can't be read now: {problem}.", retry_after=2) from None
            except BaseException:
                self.unwatch(topics)
                raise
        return [replica.log for replica in replicas]

    def add_watcher(self, topic: str) -> TopicReplica:
        replica = self._replicas.open(topic)
        self._unused.pop(topic, None)
        self._set_watchers(topic, self._watchers.get(topic, 0) + 1)
        return replica

    def unwatch(self, topics: Sequence[str]) -> None:
        for topic in topics:
            watchers = self._watchers[topic] - 1
            self._set_watchers(topic, watchers)
            replica = self._replicas.get(topic)
            if not watchers and replica is not None:
                self._keep_unused(replica)

    def _set_watchers(self, topic: str, count: int) -> None:
        if count:
            self._watchers[topic] = count
        else:
            del self._watchers[topic]
        self._subscribers.set_count(topic, count)

    def trim(self, topic: str) -> None:
        replica = self._replicas.get(topic)
        if replica is not None:
            self._logs.trim(topic, replica.log, self._clock())

    # Replicas without subscribers

    def _keep_unused(self, replica: TopicReplica) -> None:
        """Keep a readable replica, for subscribers that come back."""
        if not replica.is_readable:
            self.drop(replica.topic)
            return
        self._unused[replica.topic] = time.monotonic()
        if len(self._unused) > MAX_UNUSED:
            oldest = next(iter(self._unused))
            del self._unused[oldest]
            self.drop(oldest)

    def drop(self, topic: str) -> None:
        """Forget a topic without subscribers."""
        replica = self._replicas.get(topic)
        if replica is None or topic in self._watchers:
            return
        self._catch_up.cancel(replica)
        self._connections.pubsub.unsubscribe(self._names.channel(topic))
        self._replicas.drop(replica)

    def sweep(self) -> None:
        self._logs.sweep(self._clock(), MIN_SWEEP + len(self._logs) // SWEEP_FRACTION)
        now = time.monotonic()
        while self._unused:
            topic, since = next(iter(self._unused.items()))
            if now - since < UNUSED_SECONDS:
                break
            del self._unused[topic]
            self.drop(topic)


async def _run(preparation: Preparation) -> None:
    async with asyncio.timeout(WATCH_SECONDS):
        await preparation.run()
