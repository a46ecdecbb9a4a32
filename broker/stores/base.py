"""What every store promises: it gives events their ids, keeps them, and delivers them to this instance's logs.

Rules: a store knows logs, not subscribers. A store delivers to one instance in the order of ids. A watched log is
complete up to `complete_to`; it changes only inside a `def`, never across an `await`. A library's errors stop in the
store: callers see `Unavailable`.

A store has four parts: `Topics`, `WatchedLogs`, `Broadcast` and `Counters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.events import EventId
from broker.log.log import Log
from broker.log.start import Start
from broker.log.timeline import Timeline
from broker.stores.stats import StoreStats
from broker.stores.terms import TopicTerms

Item = tuple[str, bytes]
"""A topic, and an event's lines (`sse.lines`)."""
PlainEvents = tuple[str, Sequence[bytes]]
"""A topic, and the lines of a few of its events."""

CLOSED = "closed"
"""The reason of an end if its publisher gives none."""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """Options of one publish.

    Attributes:
        ends: topics to close in the same step, after their events.
        producer: the producer's name, and the number of the first item in its sequence, from 1 (`log.producers`). Such a
            call publishes to one topic.
        retain_seconds: how long a topic keeps its events. Applies only if this call opens the topic: it has had no event
            yet, or none since it was deleted.
        reason: of the ends, as `broker.end` says it.
    """

    ends: Sequence[str] = ()
    producer: tuple[str, int] | None = None
    retain_seconds: float | None = None
    reason: str = CLOSED


NO_OPTIONS = PublishOptions()


class Receipt:
    """The answer to a publish. Written out, as one is made for each event: a frozen dataclass costs three times as much.

    Attributes:
        ids: one for each item published now, in the order of the items. Without items: the ids of the ends.
        replayed: every topic had the idempotency key; nothing was published, `ids` are those of the first call.
        closed: every topic in `PublishOptions.ends` is closed.
        known: how many leading items the producer had published before; they were not published again.
    """

    __slots__ = ("closed", "ids", "known", "replayed")

    def __init__(
        self, ids: Sequence[EventId], *, replayed: bool = False, closed: bool = False, known: int = 0
    ) -> None:
        self.ids = ids
        self.replayed = replayed
        self.closed = closed
        self.known = known


@dataclass(frozen=True, slots=True)
class TopicState:
    """What a store holds of a topic (contract §4). An id is None without such an event.

    Attributes:
        subscribers: on all instances.
    """

    topic: str
    subscribers: int
    events: int
    bytes: int
    first_id: EventId | None
    last_id: EventId | None
    closed: bool = False


class StoreOwner(Protocol):
    """A store reports to its owner, which must neither block nor raise."""

    def delivered(self, topic: str, size: int, published_at: float = 0.0) -> bool:
        """The log of a watched topic grew by `size` bytes of frames; 0 if only `complete_to` rose.

        `published_at` is when the first of these events was published, by this process' `time.monotonic`; 0 if that is unknown.

        False asks the store to pause, as far as it can, until `resume`.
        """

    def delivered_at_once(self, topic: str, size: int) -> bool:
        """`delivered` for a few events of `topic` that are published at this moment."""

    def on_broadcast(self, command: str) -> None:
        """An instance, perhaps this one, broadcast `command`. Called once for each."""


class Topics(Protocol):
    """Publish to topics, close, delete and list them."""

    @property
    def is_behind(self) -> bool:
        """Whether so many calls wait for the store's answers that those of further ones must be expected to take long."""

    async def publish(
        self,
        items: Sequence[Item],
        key: str | None = None,
        options: PublishOptions = NO_OPTIONS,
        published_at: float = 0.0,
    ) -> Receipt:
        """Append `(topic, lines)` items in order, then close `options.ends`: all of it or nothing.

        On return the events are in the store and on their way (I7). `published_at`, by `time.monotonic`, travels with them; 0
        stands for now.

        Checks, in this order: a topic that got the same idempotency `key` within `idempotency_seconds` gets nothing again
        and is not closed; then the items that the producer has published before; then whether a topic is closed. Closing
        a closed topic without an event is fine.

        Raises:
            Closed: a topic that was to get an event is closed; nothing is published.
            OutOfOrder: the producer's sequence has a hole before these items; nothing is published.
            RateLimited: too many keys are remembered.
            Unavailable: the events may not be in the store.
        """

    def publish_at_once(self, topic: str, events: Sequence[bytes]) -> EventId | None:
        """`publish` for the lines of a few events of `topic`, without key and options; returns the last id.

        None, and nothing is published, if this store must wait for an answer. Raises `Closed`.
        """

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        """Close `topic` with `reason`. Returns the id of its end, also if it was closed before.

        With `if_last`, closes it only if that is its last id; otherwise returns None.
        """

    async def lease(self, topic: str, seconds: float | None) -> None:
        """Take or renew the topic's lease; on expiry the topic closes as `abandoned`. None drops the lease.

        Any instance of the store closes the topic then, within a few seconds. Of several leases the longest counts. A closed
        topic gets no lease; closing or deleting a topic drops it.

        Raises:
            RateLimited: there are too many leases.
            Unavailable: the lease may not have been taken.
        """

    async def delete(self, topic: str) -> None:
        """Remove the topic's events, and open it again if it was closed. Its subscribers get `broker.end`."""

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        """The state of each of `topics`, at most 2 s old; also of unknown ones."""

    async def names(self, after: str, limit: int) -> Sequence[str]:
        """At most `limit` names after `after`, sorted: watched topics, and those with a record that were used since they were deleted."""

    async def count(self) -> int:
        """About how many names there are, without the broker's own."""

    async def terms(self, topic: str) -> TopicTerms:
        """For how long the topic keeps its events, and itself."""


class WatchedLogs(Protocol):
    """This instance's logs of the topics that it watches."""

    @property
    def born(self) -> EventId:
        """The store knows nothing before this id: a cursor before it may have missed anything."""

    @property
    def last_id(self) -> EventId:
        """The highest id known to come from the store. A cursor above it is ahead of the store."""

    @property
    def received_to(self) -> EventId:
        """A log just returned by `watch` is complete up to this id. At most `last_id`."""

    @property
    def complete_to(self) -> EventId:
        """Up to this id, the logs of all watched topics are complete."""

    @property
    def timeline(self) -> Timeline:
        """When the events of the logs happened."""

    def is_lost(self, cursor: EventId) -> bool:
        """Whether the store went back to before `cursor`, so that its client may have seen anything or nothing since."""

    async def watch(self, topics: Sequence[str], start: Start, *, current: bool = False) -> Sequence[Log]:
        """The logs of `topics`. They grow with every event until `unwatch` was called as often as `watch`.

        On return, and until the caller's next `await`, they answer for `start` as the store itself would. `last_id` is
        then at least as high as at some moment during the call. With `current`, they have every event that was published
        before the call.

        Raises:
            Unavailable: the store can't answer for them within a second; nothing is watched.
        """

    def unwatch(self, topics: Sequence[str]) -> None:
        """Undo one `watch` of each of `topics`."""

    def trim(self, topic: str) -> None:
        """A watched topic's `Log.trim_barrier` moved on, or is gone: drop what retention no longer covers."""

    def resume(self) -> None:
        """Deliver again, after `StoreOwner.delivered` returned False. Harmless at any time."""


class Broadcast(Protocol):
    """Commands to all instances of the store."""

    async def send(self, command: str, until: float | None = None, *, droppable: bool = False) -> int:
        """Send `command` to every instance. Returns the number of reachable ones. This one has it on return, the others get it soon.

        It is kept until `until` (seconds since 1970), if given, for instances that can't be reached now or start later. A
        `droppable` one is kept for a shorter time if too many such are sent. It takes no room from the others.

        Raises:
            RateLimited: too many commands are kept; not if this one is `droppable`.
            Unavailable: the other instances may not get it; this one hasn't.
        """


class Counters(Protocol):
    """Counts over all instances."""

    def set_count(self, name: str, count: int) -> None:
        """Set this instance's count of `name`. The others see it within a second."""

    async def counts_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        """The other instances' counts of each of `names`, summed; at most 2 s old. Raises `Unavailable`."""


class Store(Protocol):
    """The parts of a store, and its lifecycle."""

    @property
    def name(self) -> str:
        """The store's name, for the log's start line."""

    @property
    def topics(self) -> Topics: ...

    @property
    def logs(self) -> WatchedLogs: ...

    @property
    def broadcast(self) -> Broadcast: ...

    @property
    def counters(self) -> Counters: ...

    async def start(self, owner: StoreOwner) -> None:
        """Begin to deliver to `owner`. Raises `Unavailable` if the store refuses this instance."""

    async def stop(self) -> None:
        """Release what `start` took. Nothing is delivered afterwards."""

    def sweep(self) -> None:
        """Drop some of the expired state; called about once a second."""

    @property
    def stats(self) -> StoreStats:
        """Figures for the metrics."""

    def checks(self) -> dict[str, str]:
        """The store's part of readiness (contract §6): each check by name, `"ok"` or the problem."""


class NoOwner:
    """The owner of a store that isn't running."""

    def delivered(self, _topic: str, _size: int, _published_at: float = 0.0) -> bool:
        return True

    def delivered_at_once(self, _topic: str, _size: int) -> bool:
        return True

    def on_broadcast(self, _command: str) -> None:
        pass


NO_OWNER = NoOwner()
