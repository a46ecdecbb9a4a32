"""Who watches which topics here: copies are made for them, made fit for where they start, and kept for a while afterwards.

Rules: counts watchers; how a copy comes to what it has is the business of `filling` and `copies`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from broker.errors import Unavailable
from broker.events import EventId, id_at
from broker.log.log import Log
from broker.log.start import After, Last, Latest, Since, Start
from broker.stores.redis.catch_up import CatchUp, settled
from broker.stores.redis.counters import Counters
from broker.stores.redis.names import Names
from broker.stores.redis.pubsub import PubSubReader
from broker.stores.redis.replica import TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.script_pipeline import Seen

WATCH_SECONDS = 0.9
LINGER_SECONDS = 30.0
LINGERING_MOST = 20_000
WATCH_LOOKS = 8


class Watches:
    """See the module.

    Args:
        problem: why the store can't be read now, for who is refused.
    """

    def __init__(
        self,
        names: Names,
        seen: Seen,
        copies: Replicas,
        filling: CatchUp,
        listener: PubSubReader,
        presence: Counters,
        problem: Callable[[], str],
    ) -> None:
        self._names = names
        self._seen = seen
        self._copies = copies
        self._filling = filling
        self._listener = listener
        self._presence = presence
        self._problem = problem
        self._lingering: dict[str, float] = {}

    async def watch(self, topics: Sequence[str], start: Start) -> Sequence[Log]:
        copies = [self.hold(topic) for topic in topics]
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await self._prepare(copies, start)
        except TimeoutError:
            self.unwatch(topics)
            raise Unavailable(f"The store can't be read now: {self._problem()}.", retry_after=2) from None
        except BaseException:
            self.unwatch(topics)
            raise
        return [copy.log for copy in copies]

    def hold(self, topic: str) -> TopicReplica:
        copy = self._copies.open(topic)
        copy.watchers += 1
        self._lingering.pop(topic, None)
        self._presence.set_count(topic, copy.watchers)
        return copy

    def unwatch(self, topics: Sequence[str]) -> None:
        for topic in topics:
            copy = self._copies.get(topic)
            assert copy is not None
            copy.watchers -= 1
            self._presence.set_count(topic, copy.watchers)
            if not copy.watchers:
                self._linger(copy)

    def _linger(self, copy: TopicReplica) -> None:
        """Keep a copy for a while, for who comes back; as long as there aren't too many."""
        if not copy.was_live:
            self.drop(copy.topic)
            return
        self._lingering[copy.topic] = time.monotonic()
        if len(self._lingering) > LINGERING_MOST:
            oldest = next(iter(self._lingering))
            del self._lingering[oldest]
            self.drop(oldest)

    async def _prepare(self, copies: Sequence[TopicReplica], start: Start) -> None:
        """Return when `copies` are live, reach back as far as `start` asks, and are complete as of now."""
        for copy in copies:
            if not copy.is_live:
                self._filling.make_live(copy, _hint(start))
        several = len(copies) > 1
        cursor = start.cursor if isinstance(start, After) else 0
        ahead = cursor > self._copies.received_to.value
        asked_by = self._pubsub_generation
        last = await self._filling.sync() if several or ahead or isinstance(start, Latest) else 0
        # Who begins at an id must be told of an end at or before it; what comes later than that would be too late.
        level = self._copies.complete_to if several else self._copies.received_to
        due = min(last, cursor) if ahead and not several else last
        for _ in range(WATCH_LOOKS):
            waiting = next((copy for copy in copies if not copy.is_live), None)
            if waiting is not None:
                self._filling.make_live(waiting, _hint(start))
                assert waiting.task is not None
                await settled(waiting.task)
                continue
            short = next((copy for copy in copies if not copy.log.reaches(self._need(copy, start))), None)
            if short is not None:
                await self._filling.extend(short, self._need(short, start))
                continue
            if level.value >= due:
                return
            if (
                self._pubsub_generation != asked_by
            ):  # that the store's last id was said, nobody here has heard
                asked_by = self._pubsub_generation
                await self._filling.sync()
                continue
            await level.reached(due)
        raise TimeoutError

    @property
    def _pubsub_generation(self) -> int:
        """Which connection hears what is said now; 0 for none."""
        return self._listener.generation if self._listener.is_ready else 0

    def _need(self, copy: TopicReplica, start: Start) -> EventId:
        """From where on the copy must tell the truth."""
        match start:
            case Latest():
                return copy.log.last
            case After(cursor):
                return min(cursor, self._seen.value)
            case Since(seconds):
                return min(max(0, id_at(seconds) - 1), self._seen.value)
            case Last(number) if copy.log.visible()[2] - copy.log.gap_entries >= number:
                return copy.log.last
            case _:
                return 0

    def drop(self, topic: str) -> None:
        copy = self._copies.get(topic)
        if copy is None or copy.watchers:
            return
        for task in (copy.task, copy.extending):
            if task is not None:
                task.cancel()
        self._listener.unsubscribe(self._names.channel(topic))
        self._copies.drop(copy)

    def sweep(self) -> None:
        """Drop the copies that nobody came back to."""
        now = time.monotonic()
        while self._lingering:
            topic, since = next(iter(self._lingering.items()))
            if now - since < LINGER_SECONDS:
                break
            del self._lingering[topic]
            self.drop(topic)


def _hint(start: Start) -> EventId | None:
    """Where a copy that is made for `start` begins; None for now."""
    match start:
        case Latest():
            return None
        case After(cursor):
            return cursor
        case Since(seconds):
            return max(0, id_at(seconds) - 1)
        case _:
            return 0
