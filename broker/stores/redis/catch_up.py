"""Reads entries from the store: all for a new replica, the missed ones for a stale replica, and older ones on request.

Rules: owns the reading tasks. A replica may have changed when a reply arrives, so each step checks again. One call reads one
page of one topic.
"""

from __future__ import annotations

import asyncio
import contextlib

from broker.errors import Unavailable
from broker.events import EventId, format_id
from broker.stores.redis.connections import Connections
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import StoreHistory, TopicPage, decode_history, decode_id, decode_page
from broker.stores.redis.names import Names
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.scripts import Script
from broker.stores.redis.task_owner import TaskOwner
from broker.topics import RetentionRules

PAGE_BYTES = 256 << 10
MAX_CONCURRENT_READS = 64
RETRY_SECONDS = 0.1
NO_ENTRIES = "$"


class CatchUp:
    """Reads what replicas lack."""

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
        self._retention = retention
        self._flowing = delivery.flowing
        self._tasks = tasks
        self._read_slots = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self._live_tasks: dict[TopicReplica, asyncio.Task[None]] = {}
        self._extend_tasks: dict[TopicReplica, asyncio.Task[None]] = {}
        self._next_sync: asyncio.Task[None] | None = None
        self._synced_to: EventId = 0

    # Bring a replica up to date

    def make_live(self, replica: TopicReplica, after: EventId | None = None) -> asyncio.Task[None]:
        """The task that makes `replica` LIVE; an EMPTY one starts after `after`, or with the next event."""
        task = self._live_tasks.get(replica)
        if task is None or task.done():
            task = self._live_tasks[replica] = self._tasks.spawn(self._make_live(replica, after))
        return task

    async def wait_live(self, replica: TopicReplica, after: EventId | None) -> None:
        """Return when the task of `make_live` has ended or failed."""
        with contextlib.suppress(Exception):
            await asyncio.shield(self.make_live(replica, after))

    def cancel(self, replica: TopicReplica) -> None:
        for tasks in (self._live_tasks, self._extend_tasks):
            task = tasks.pop(replica, None)
            if task is not None:
                task.cancel()

    async def _make_live(self, replica: TopicReplica, after: EventId | None) -> None:
        while True:
            await self._pubsub.subscribe(self._names.channel(replica.topic))
            generation = self._pubsub.generation
            replica.clear_buffer()
            try:
                last = await self._read_to_end(replica, after)
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if generation == self._pubsub.generation and self._pubsub.is_ready:
                if self._replicas.go_live(replica, last):
                    return
            elif not self._pubsub.is_ready:
                await asyncio.sleep(RETRY_SECONDS)

    async def _read_to_end(self, replica: TopicReplica, after: EventId | None) -> EventId:
        """Read all pages; returns the store's last id as of the last page."""
        while True:
            await self._flowing.wait()
            cursor = after if replica.phase is Phase.EMPTY else replica.tail
            last, history, page = await self._read_page(replica.topic, cursor, "+")
            if replica.phase is Phase.EMPTY:
                begin = last if after is None else min(after, last)
                replica.begin(page, begin, history)
            self._replicas.learn(history)
            replica.apply_page(page)
            if not page.more:
                return last

    # Put older entries in front

    async def extend(self, replica: TopicReplica, complete_from: EventId) -> None:
        """Read the entries between `complete_from` and the log's beginning. Concurrent callers share a task."""
        task = self._extend_tasks.get(replica)
        if task is None or task.done():
            task = self._extend_tasks[replica] = self._tasks.spawn(self._extend(replica, complete_from))
        await asyncio.shield(task)

    async def _extend(self, replica: TopicReplica, complete_from: EventId) -> None:
        upto = replica.log.complete_from
        entries: list[tuple[EventId, EventId, bytes]] = []
        more, after = upto > complete_from, complete_from
        while more:
            _, _, page = await self._read_page(replica.topic, after, format_id(upto))
            entries += page.entries
            more = page.more
            after = entries[-1][0] if entries else after
        # If the log was trimmed meanwhile, there is a hole, and the caller asks again.
        if replica.log.complete_from == upto > complete_from:
            self._replicas.prepend(replica, entries, complete_from)

    async def _read_page(
        self, topic: str, after: EventId | None, upto: str
    ) -> tuple[EventId, StoreHistory, TopicPage]:
        """The store's last id and history, and the topic's entries after `after`, up to `upto`. No entries if `after` is None."""
        max_age_ms = int(self._retention.of(topic).seconds * 1000)
        cursor = NO_ENTRIES if after is None else format_id(after)
        keys = [self._names.key("state"), *self._names.topic_keys(topic)]
        async with self._read_slots:
            reply = await self._calls.call(self._script, keys, ["", PAGE_BYTES, 1, cursor, upto, max_age_ms])
        return decode_id(reply[0]), decode_history(reply[1], reply[2:6]), decode_page(reply[7], reply[6])

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
            self._script, [self._names.key("state")], [self._names.probe_channel, PAGE_BYTES, 0]
        )
        self._replicas.learn(decode_history(reply[1], reply[2:6]))
        self._synced_to = max(self._synced_to, decode_id(reply[0]))
