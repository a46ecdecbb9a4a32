"""One request's wait until the replicas of its topics can answer for its start.

Rules: asks `catch_up` for all that the replicas lack, at once. Its caller bounds the time.
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
    """What `replicas` lack for `start`; with `is_current`, also to have every event that was published before this."""

    def __init__(
        self,
        replicas: Sequence[TopicReplica],
        start: Start,
        connections: Connections,
        all_replicas: Replicas,
        catch_up: CatchUp,
        *,
        is_current: bool = False,
    ) -> None:
        self._is_current = is_current
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
        # By replica with a log that was found to be long enough, the log's `emptied` then. Retention may have trimmed it since, as it
        # has trimmed the store's.
        self._met: dict[TopicReplica, int] = {}

    @property
    def is_finished(self) -> bool:
        """Whether the replicas can answer already; the usual case for a cursor on a topic that others follow."""
        if self._must_sync:
            return False
        need = self._needed()
        return all(
            replica.phase is Phase.LIVE and self._is_long_enough(replica, need) for replica in self._replicas
        )

    async def run(self) -> None:
        """Return when the replicas can answer for the start. Raises `Unavailable`."""
        self._make_live()
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

    @property
    def _is_ahead(self) -> bool:
        return isinstance(self._start, After) and self._start.cursor > self._received_to.value

    @property
    def _must_sync(self) -> bool:
        return (
            self._is_current or len(self._replicas) > 1 or self._is_ahead or isinstance(self._start, Latest)
        )

    async def _find_target(self) -> None:
        if not self._must_sync:
            return
        is_ahead = self._is_ahead and not self._is_current
        self._target = await self._catch_up.sync()
        if is_ahead and isinstance(self._start, After) and len(self._replicas) == 1:
            # A subscriber that starts at a cursor must learn now of an end at or before it; later delivery skips it.
            self._target = min(self._target, self._start.cursor)

    def _lacking(
        self,
    ) -> tuple[Sequence[asyncio.Future[None]], dict[TopicReplica, asyncio.Future[int | Unavailable]]]:
        """Futures for the replicas that aren't LIVE, and for those with a log that isn't long enough."""
        live = self._make_live()
        need = self._needed()
        extended = {
            replica: self._catch_up.extend(replica, need)
            for replica in self._replicas
            if replica.phase is Phase.LIVE and not self._is_long_enough(replica, need)
        }
        return live, extended

    def _make_live(self) -> Sequence[asyncio.Future[None]]:
        first = _need(self._start, self._timeline)
        return [
            self._catch_up.make_live(replica, first)
            for replica in self._replicas
            if replica.phase is not Phase.LIVE
        ]

    def _needed(self) -> Need:
        """The part of each log that the start needs now.

        New events are those after `received_to`: `broker.open` tells this id, and a cursor that is ahead of the store starts
        there. A log that was just read for the first time may begin after it, and lack events.
        """
        need = _need(self._start, self._timeline)
        if need is None:
            return Need(self._received_to.value)
        is_time = isinstance(self._start, Since)  # earlier entries needn't be there
        upto = self._connections.seen.value if is_time else self._received_to.value
        return Need(min(need.cursor, upto), need.newest)

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
                met.cancel()  # so that its reading knows that no request waits
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


def _need(start: Start, timeline: Timeline) -> Need | None:
    """The part of a log that `start` needs; None for new events only."""
    match start:
        case Latest():
            return None
        case After(cursor):
            return Need(cursor)
        case Since(seconds):
            return Need(cursor_before(seconds, timeline))
        case Last(count):
            return Need(0, count)
        case _:
            return Need(0)
