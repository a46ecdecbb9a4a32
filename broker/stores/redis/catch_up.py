"""Reads from the store what copies lack: when they begin, when something was missed, and when somebody asks for more.

Rules: the awaiting half of `copies`: what it asks for may have changed when the answer comes, so it looks again. Each read is
one topic's, one page at a time; those of a loop turn leave together (`calls`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence

from broker.errors import Unavailable
from broker.events import EventId, format_id
from broker.stores.redis.link import Reply
from broker.stores.redis.messages import Facts, Held, facts, held, to_id
from broker.stores.redis.names import Names
from broker.stores.redis.pubsub import PubSubReader
from broker.stores.redis.replica import TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.scripts import Script
from broker.topics import RetentionRules

PAGE_BYTES = 256 << 10
READS_AT_ONCE = 64
AGAIN_SECONDS = 0.1
FROM_NOW = "$"


class CatchUp:
    """See the module.

    Args:
        flowing: while it isn't set no copy is brought further.
        spawn: makes a task that its owner looks after.
    """

    def __init__(
        self,
        names: Names,
        script: Script,
        calls: ScriptPipeline,
        listener: PubSubReader,
        copies: Replicas,
        retention: RetentionRules,
        flowing: asyncio.Event,
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        self._names = names
        self._script = script
        self._calls = calls
        self._listener = listener
        self._copies = copies
        self._retention = retention
        self._flowing = flowing
        self._spawn = spawn
        self._turn = asyncio.Semaphore(READS_AT_ONCE)
        self._next_sync: asyncio.Task[None] | None = None
        self._synced: EventId = 0

    # Live copies

    def make_live(self, copy: TopicReplica, after: EventId | None = None) -> None:
        """Begin to bring a waiting copy up to date; one that has nothing yet starts after `after`, or now."""
        if copy.task is None or copy.task.done():
            copy.task = self._spawn(self._make_live(copy, after))

    async def _make_live(self, copy: TopicReplica, after: EventId | None) -> None:
        while True:
            await self._listener.subscribe(self._names.channel(copy.topic))
            generation = self._listener.generation
            self._copies.restart(copy)
            try:
                last = await self._read_on(copy, after)
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if generation == self._listener.generation and self._listener.is_ready:
                if self._copies.go_live(copy, last):
                    return
            elif not self._listener.is_ready:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _read_on(self, copy: TopicReplica, after: EventId | None) -> EventId:
        """Read from the copy's tail to the end; returns the store's last id at that moment."""
        while True:
            await self._flowing.wait()
            known = copy.tail if copy.losses_applied_to else after
            last, now, page = await self._read(copy.topic, known, "+")
            if not copy.losses_applied_to:
                self._copies.begin(copy, last if after is None else min(after, last), page, now, last)
            self._copies.go_on(copy, page, now)
            if not page.more:
                return last

    async def extend(self, copy: TopicReplica, complete_from: EventId) -> None:
        """Have what the store holds between `complete_from` and where the copy begins; all who ask meanwhile share it."""
        if copy.extending is None or copy.extending.done():
            copy.extending = self._spawn(self._extend(copy, complete_from))
        await asyncio.shield(copy.extending)

    async def _extend(self, copy: TopicReplica, complete_from: EventId) -> None:
        upto = copy.log.complete_from
        entries: list[tuple[EventId, EventId, bytes]] = []
        more, after = upto > complete_from, complete_from
        while more:
            _, _, page = await self._read(copy.topic, after, format_id(upto))
            entries += page.entries
            more = page.more
            after = entries[-1][0] if entries else after
        if (
            copy.log.complete_from == upto > complete_from
        ):  # else it was cut meanwhile, and who asks will ask again
            self._copies.put_in_front(copy, entries, complete_from)

    async def _read(self, topic: str, after: EventId | None, upto: str) -> tuple[EventId, Facts, Held]:
        max_age_ms = int(self._retention.of(topic).seconds * 1000)
        cursor = FROM_NOW if after is None else format_id(after)
        keys = [self._names.key("state"), *self._names.topic_keys(topic)]
        async with self._turn:
            reply = await self._calls.call(self._script, keys, ["", PAGE_BYTES, 1, cursor, upto, max_age_ms])
        return to_id(reply[0]), facts(reply[1], reply[2:5]), held(reply[5])

    # The store's present

    async def sync(self) -> EventId:
        """The store's last id at a moment after this call began; `received_to` will reach it. All of one turn share a call."""
        if self._next_sync is None:
            self._next_sync = self._spawn(self._sync())
        task = self._next_sync
        await asyncio.shield(task)
        return self._synced

    async def _sync(self) -> None:
        self._next_sync = None
        args: Sequence[str | int] = (self._names.probe_channel, PAGE_BYTES, 0)
        reply: Reply = await self._calls.call(self._script, [self._names.key("state")], args)
        self._copies.learn(facts(reply[1], reply[2:5]))
        self._synced = max(self._synced, to_id(reply[0]))


async def settled(task: asyncio.Task[None]) -> None:
    """Return when a task that others own is over, however it ended."""
    with contextlib.suppress(Exception):
        await asyncio.shield(task)
