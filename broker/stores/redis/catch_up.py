"""Reads what replicas lack: everything for a new one, the missed entries for a stale one, and older entries on request.

Rules: keeps the readings of each replica; `page_reader` makes the calls.
"""

from __future__ import annotations

import asyncio
from functools import partial

from broker.errors import Unavailable
from broker.events import EventId
from broker.stores.redis.connections import Connections
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import decode_read
from broker.stores.redis.names import Names
from broker.stores.redis.page_reader import PageReader
from broker.stores.redis.readings import FrontReading, Need, TailReading
from broker.stores.redis.replica import TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.scripts import Script
from broker.stores.redis.task_owner import TaskOwner
from broker.topics import RetentionRules

MAX_UNAWAITED = 8


class CatchUp:
    """Starts, shares and ends readings."""

    def __init__(
        self,
        names: Names,
        script: Script,
        connections: Connections,
        replicas: Replicas,
        retention: RetentionRules,
        delivery: Delivery,
        tasks: TaskOwner,
    ) -> None:
        self._names = names
        self._script = script
        self._calls = connections.calls
        self._pubsub = connections.pubsub
        self._replicas = replicas
        self._tasks = tasks
        self._reader = PageReader(names, script, connections.calls, retention, delivery, tasks)
        self._tails: dict[TopicReplica, TailReading] = {}
        self._fronts: dict[TopicReplica, FrontReading] = {}
        self._unawaited: set[FrontReading] = set()
        self._next_sync: asyncio.Task[None] | None = None
        self._synced_to: EventId = 0

    # Bring a replica up to date

    def make_live(self, replica: TopicReplica, first: Need | None = None) -> asyncio.Future[None]:
        """A future of all callers, done once `replica` is LIVE; an EMPTY one begins at `first`, or with the next event."""
        confirmed = self._pubsub.subscribe(self._names.channel(replica.topic))
        tail = self._tails.get(replica)
        if tail is None:
            tail = self._tails[replica] = TailReading(replica, first, self._replicas, self._pubsub, self)
            if not confirmed.done():
                confirmed.add_done_callback(partial(self._subscribed, tail))
        if confirmed.done():
            self._reader.add(tail)
        return tail.done

    def _subscribed(self, tail: TailReading, confirmed: asyncio.Future[None]) -> None:
        if not confirmed.cancelled() and self._tails.get(tail.replica) is tail:
            self._reader.add(tail)

    def extend(self, replica: TopicReplica, need: Need) -> asyncio.Future[int | Unavailable]:
        """Have older entries put in front of a readable replica's log; see `FrontReading.ask`."""
        front = self._fronts.get(replica)
        if front is None:
            front = self._fronts[replica] = FrontReading(replica, self._replicas, self)
        self._unawaited.discard(front)
        self._reader.add(front)
        return front.ask(need)

    def cancel(self, replica: TopicReplica) -> None:
        """Read no more for a replica that is dropped."""
        tail, front = self._tails.pop(replica, None), self._fronts.pop(replica, None)
        if tail is not None:
            self._reader.discard(tail)
        if front is not None:
            self._reader.discard(front)
            self._unawaited.discard(front)

    # For the readings: `ReadingOwner`

    def tail_ended(self, reading: TailReading) -> None:
        del self._tails[reading.replica]

    def front_ended(self, reading: FrontReading) -> None:
        del self._fronts[reading.replica]
        self._unawaited.discard(reading)

    def may_go_on(self, reading: FrontReading) -> bool:
        if len(self._unawaited) < MAX_UNAWAITED:
            self._unawaited.add(reading)
        return reading in self._unawaited

    # The store's last id

    async def sync(self) -> EventId:
        """The store's last id, read after this call began. A probe makes `received_to` reach it.

        Calls of one loop turn share a script call. Raises `Unavailable`.
        """
        if self._next_sync is None:
            self._next_sync = self._tasks.spawn(self._sync())
        await asyncio.shield(self._next_sync)
        return self._synced_to

    async def _sync(self) -> None:
        self._next_sync = None
        reply = await self._calls.call(
            self._script, [self._names.key("state")], [self._names.probe_channel, 0, 0, 0]
        )
        read = decode_read(reply)
        self._replicas.learn(read.history)
        self._synced_to = max(self._synced_to, read.last)
