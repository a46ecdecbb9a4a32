"""One request's wait until the replicas of its topics can answer for its start.

Rules: asks `catch_up` for what is lacking, for all topics at once. Its caller bounds the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from broker.errors import Unavailable
from broker.events import EventId
from broker.log.start import After, Last, Latest, Since, Start, cursor_before
from broker.log.timeline import Timeline
from broker.stores.redis.catch_up import CatchUp
from broker.stores.redis.connections import Connections
from broker.stores.redis.readings import Need
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.replicas import Replicas


class Preparation:
    """What `replicas` lack for `start`."""

    def __init__(
        self,
        replicas: Sequence[TopicReplica],
        start: Start,
        connections: Connections,
        all_replicas: Replicas,
        catch_up: CatchUp,
    ) -> None:
        self._replicas = replicas
        self._start = start
        self._connections = connections
        self._catch_up = catch_up
        self._timeline = all_replicas.timeline
        self._received_to = all_replicas.received_to
        self._watermark = all_replicas.complete_to if len(replicas) > 1 else all_replicas.received_to
        # The id that `_watermark` must reach before the replicas are complete as of now.
        self._target: EventId = 0
        # The pub/sub connection at the last sync. A newer one has missed that sync's probe.
        self._generation = self._pubsub_generation
        # By replica whose log was found to be long enough, the log's `emptied` then. Retention may have trimmed it since, as it
        # has trimmed the store's.
        self._met: dict[TopicReplica, int] = {}

    async def run(self) -> None:
        """Return when the replicas can answer for the start. Raises `Unavailable`."""
        for replica in self._replicas:
            if replica.phase is not Phase.LIVE:
                self._catch_up.make_live(replica, _need(self._start, self._timeline))
        await self._find_target()
        while True:
            live, extended = self._lacking()
            if live or extended:
                await self._wait(live, extended)
            elif self._watermark.value >= self._target:
                return
            elif self._generation == self._pubsub_generation:
                await self._watermark.reached(self._target)
            else:
                self._generation = self._pubsub_generation
                await self._catch_up.sync()

    async def _find_target(self) -> None:
        start = self._start
        has_several = len(self._replicas) > 1
        cursor = start.cursor if isinstance(start, After) else 0
        is_ahead = cursor > self._received_to.value
        if has_several or is_ahead or isinstance(start, Latest):
            self._target = await self._catch_up.sync()
        if is_ahead and not has_several:
            # A subscriber that starts at a cursor must learn now of an end at or before it; later delivery skips it.
            self._target = min(self._target, cursor)

    def _lacking(
        self,
    ) -> tuple[Sequence[asyncio.Future[None]], dict[TopicReplica, asyncio.Future[int | Unavailable]]]:
        """Futures for the replicas that aren't LIVE, and for those whose log isn't long enough."""
        live = []
        extended = {}
        need = _need(self._start, self._timeline, self._connections.seen.value)
        if isinstance(self._start, Latest):
            # `broker.open` tells this id. A log that was just read for the first time may begin after it, and lack events.
            need = Need(self._received_to.value)
        for replica in self._replicas:
            if replica.phase is not Phase.LIVE:
                live.append(self._catch_up.make_live(replica))
            elif need is not None and not self._is_long_enough(replica, need):
                extended[replica] = self._catch_up.extend(replica, need)
        return live, extended

    def _is_long_enough(self, replica: TopicReplica, need: Need) -> bool:
        if isinstance(self._start, Latest) and replica.log.last <= need.cursor:
            return True
        return need.is_met(replica.log) or self._met.get(replica) == replica.log.emptied

    async def _wait(
        self,
        live: Sequence[asyncio.Future[None]],
        extended: Mapping[TopicReplica, asyncio.Future[int | Unavailable]],
    ) -> None:
        """Wait for all of the futures. Raises `Unavailable`."""
        try:
            waited: list[asyncio.Future[Any]] = [*live, *extended.values()]
            await asyncio.wait(waited)
        finally:
            for met in extended.values():
                met.cancel()  # so that its reading knows that nobody waits
        for replica, met in extended.items():
            result = met.result()
            if isinstance(result, Unavailable):
                raise result
            self._met[replica] = result

    @property
    def _pubsub_generation(self) -> int:
        """The number of the pub/sub connection; 0 without one."""
        pubsub = self._connections.pubsub
        return pubsub.generation if pubsub.is_ready else 0


def _need(start: Start, timeline: Timeline, last_id: EventId | None = None) -> Need | None:
    """The part of a log that `start` needs; None for new events only. Cursors after `last_id` are ahead of the store."""
    match start:
        case Latest():
            return None
        case After(cursor):
            needed = cursor
        case Since(seconds):
            needed = cursor_before(seconds, timeline)
        case Last(count):
            return Need(0, count)
        case _:
            return Need(0)
    return Need(needed if last_id is None else min(needed, last_id))
