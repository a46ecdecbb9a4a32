"""All replicas of this instance, and the id up to which they are complete together.

Rules: state only; every method is a `def`, and none asks the server (`catch_up` does).

A subscriber of several topics is only written entries up to `complete_to`. It rises with the payloads received on the
channels, and stands still while a replica is STALE, or while the store has lost something that isn't in the logs yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from broker.events import Clock, EventId
from broker.log.table import LogTable
from broker.log.timeline import Timeline
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import UNKNOWN_HISTORY, StoreHistory, TopicUpdate
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.watermark import Watermark
from broker.topics import Retention

MAX_AGE_SECONDS = 600.0
"""An event that seems older comes from an instance with a wrong clock."""

_logger = logging.getLogger("broker")


class Replicas:
    """This instance's replicas.

    Attributes:
        complete_to: all readable replicas are complete up to this id.
        received_to: all pub/sub payloads up to this id were received.
        history: the newest store history that was read.
    """

    def __init__(self, logs: LogTable, clock: Clock, delivery: Delivery) -> None:
        self.complete_to = Watermark()
        self.received_to = Watermark()
        self.history: StoreHistory = UNKNOWN_HISTORY
        self._logs = logs
        self._clock = clock
        self._delivery = delivery
        self._replicas: dict[str, TopicReplica] = {}
        self._stale: set[TopicReplica] = set()
        self._received_epoch = 0  # above that of `history`: the newest history must be read
        # By topic, the newest entry that was delivered ahead of `complete_to`. Subscribers of several topics couldn't be
        # written it, so the topic is delivered again.
        self._ahead: dict[str, EventId] = {}

    def __iter__(self) -> Iterator[TopicReplica]:
        return iter(list(self._replicas.values()))

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, topic: str) -> TopicReplica | None:
        return self._replicas.get(topic)

    def open(self, topic: str) -> TopicReplica:
        """The topic's replica; a new one is EMPTY."""
        replica = self._replicas.get(topic)
        if replica is None:
            log = self._logs.pin(topic, self._clock())
            replica = self._replicas[topic] = TopicReplica(topic, log, self)
        return replica

    def drop(self, replica: TopicReplica) -> None:
        del self._replicas[replica.topic]
        self._stale.discard(replica)
        self._ahead.pop(replica.topic, None)
        self._logs.discard(replica.topic)
        self._raise_complete_to()

    @property
    def timeline(self) -> Timeline:
        return self._logs.timeline

    @property
    def are_complete(self) -> bool:
        return not self._stale

    # Received on the channels

    def received(self, announced_to: EventId, epoch: int) -> None:
        """All payloads up to `announced_to` were received."""
        if epoch > self._received_epoch:
            self._received_epoch = epoch
        self.received_to.raise_to(announced_to)
        self._raise_complete_to()

    def receive(self, topic: str, update: TopicUpdate) -> TopicReplica | None:
        """Apply or buffer an update. Returns the replica if it has missed one and must be read again."""
        replica = self._replicas.get(topic)
        if replica is not None and replica.phase is Phase.LIVE and replica.joins(update):
            # First, since subscribers may be written the update as far as `complete_to`.
            self.received(update.announced_to, update.epoch)
            replica.append(update)
            return None
        has_hole = replica is not None and replica.phase is Phase.LIVE
        if replica is not None:
            if has_hole:
                self._interrupt(replica, update)
            replica.buffer(update)
        self.received(update.announced_to, update.epoch)
        return replica if has_hole else None

    def disconnected(self) -> None:
        """Updates are missed from now on."""
        self._received_epoch = 0  # the next server may be another
        for replica in self:
            if replica.phase is Phase.LIVE:
                self._interrupt(replica)

    def _interrupt(self, replica: TopicReplica, update: TopicUpdate | None = None) -> None:
        replica.interrupt(update)
        self._stale.add(replica)

    def _raise_complete_to(self) -> None:
        received_to = self.received_to.value
        if self._stale or received_to <= self.complete_to.value or self._received_epoch > self.history.epoch:
            return
        self.complete_to.raise_to(received_to)
        if self._ahead:
            for topic in [topic for topic, last in self._ahead.items() if last <= received_to]:
                del self._ahead[topic]
                self._delivery.deliver(topic, 0)

    # Read from the store

    def learn(self, history: StoreHistory) -> None:
        """Take over a newer history, and add its losses to the live replicas; others get them when they are read."""
        if history.epoch <= self.history.epoch:
            return
        if history.corrections != self.history.corrections:
            self._logs.correct(history.corrections)
            _logger.warning("store: %s", self._logs.timeline.warning)
        self.history = history
        for replica in self:
            if replica.phase is Phase.LIVE:
                replica.apply_losses()
        self._raise_complete_to()

    def go_live(self, replica: TopicReplica, last: EventId) -> bool:
        """See `TopicReplica.go_live`."""
        if not replica.go_live(last):
            return False
        self._stale.discard(replica)
        self._raise_complete_to()
        return True

    def prepend(
        self,
        replica: TopicReplica,
        entries: Sequence[tuple[EventId, EventId, bytes]],
        complete_from: EventId,
    ) -> None:
        """See `TopicReplica.prepend`."""
        replica.prepend(entries, complete_from)
        self._logs.filled(replica.topic, replica.log, self._clock())

    def has_room(self, entries: Sequence[tuple[EventId, EventId, bytes]]) -> bool:
        """Whether there is room for `entries` without taking that of other topics."""
        return self._logs.has_room(sum(len(frame) for _, _, frame in entries), len(entries))

    # For a replica: `ReplicaOwner`

    def grew(self, replica: TopicReplica, size: int, published_ms: int = 0) -> None:
        now = self._clock()
        self._logs.appended(replica.topic, replica.log, now)
        if replica.is_readable:
            age = now - published_ms / 1000
            published_at = time.monotonic() - max(0.0, age) if age < MAX_AGE_SECONDS else 0.0
            self._delivery.deliver(replica.topic, size, published_at)
            if replica.log.last > self.complete_to.value:
                self._ahead[replica.topic] = replica.log.last

    def set_retention(self, replica: TopicReplica, retention: Retention | None) -> None:
        self._logs.retain(replica.topic, replica.log, retention)
