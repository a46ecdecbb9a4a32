"""The contract of a store: it gives events their ids, keeps them, and delivers them to this instance's logs.

Rules: a store knows logs, not subscribers. What it delivers to one instance comes in the order of the ids; a log that is
watched is complete up to `complete_to` and changes only in a `def`, never across an `await`. A library's errors stop
here: what goes wrong comes out as `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.events import EventId
from broker.log.log import Log
from broker.log.start import Start

Item = tuple[str, bytes]
"""A topic, and an event's lines (`sse.lines`)."""


Deliver = Callable[[str, int], bool]
"""Called with a watched topic and the bytes of frames that were just appended to its log; 0 where `complete_to` alone moved.

False: so much is on its way to subscribers that the store is to bring no more for now, as far as it can; `resume` follows.
"""


OnBroadcast = Callable[[str], None]
"""Called once with each notice that another instance, or this one, has told all."""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What is asked of a publish beside the events.

    Attributes:
        ends: topics that end with this call, in one step with its events, or without one.
        producer: who publishes, and the number of the first item within its stream, from 1 (see `broker.producers`); the
            call is for one topic then.
        retain_seconds: how long a topic that this call opens is to keep its events; ignored for one that was published to
            before, unless it was deleted since.
    """

    ends: Sequence[str] = ()
    producer: tuple[str, int] | None = None
    retain_seconds: float | None = None


PLAIN = PublishOptions()


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a publish.

    Attributes:
        ids: one for each item that is published now, in the order of the items; where there were none, of each end.
        replayed: the idempotency key was known for every topic, nothing was published, the ids are the first ones.
        closed: all topics that were to end have ended.
        known: how many leading items the producer had published before; they were not published again.
    """

    ids: Sequence[EventId]
    replayed: bool = False
    closed: bool = False
    known: int = 0


@dataclass(frozen=True, slots=True)
class TopicState:
    """What a store holds of a topic (contract §4); the ids are None where there is none to name.

    Attributes:
        subscribers: how many watch it, on all instances.
        closed: whether it has ended.
    """

    topic: str
    subscribers: int
    events: int
    bytes: int
    first_id: EventId | None
    last_id: EventId | None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """How a store that is somewhere else can be used; one in this process always can.

    Attributes:
        connected: whether calls are answered and channels heard.
        connections: how many connections were made so far.
        mended: how often a watched topic was read anew, since something was missed.
        lag_seconds: how long the last probe took from the call to being heard.
    """

    connected: bool = True
    connections: int = 0
    mended: int = 0
    lag_seconds: float = 0.0


class Store(Protocol):
    """What a node needs of a store."""

    @property
    def name(self) -> str:
        """How the start line calls it."""

    @property
    def born(self) -> EventId:
        """Nothing before this id is known; a cursor before it may have lost anything."""

    async def start(self, deliver: Deliver, on_broadcast: OnBroadcast) -> None:
        """Begin to deliver to `deliver`, and to hand notices to `on_broadcast`. Raises `Unavailable` where the store can't be reached."""

    async def stop(self) -> None:
        """Give back what `start` took; no delivery after it."""

    @property
    def last_id(self) -> EventId:
        """The highest id seen come out of the store; a cursor above it is ahead of the store."""

    @property
    def received_to(self) -> EventId:
        """Up to here a log that `watch` just answered lacks nothing; at most `last_id`."""

    @property
    def complete_to(self) -> EventId:
        """Up to here the logs of all watched topics are complete."""

    async def publish(
        self, items: Sequence[Item], key: str | None = None, asked: PublishOptions = PLAIN
    ) -> Receipt:
        """Append `(topic, lines)` items in order, then the ends asked for, all or none; on return they are in the store and on
        their way (I7).

        With `key`, a topic that has seen the same key within `idempotency_seconds` gets nothing again, and is not ended.
        That is looked at first, then what its producer has published, then whether a topic that is to get something has
        ended. Ending what has ended already, without an event, is fine.

        Raises:
            Closed: a topic that was to get an event has ended; nothing is published.
            OutOfOrder: events of the producer's stream are missing before these; nothing is published.
            RateLimited: there is no room for another key.
            Unavailable: nothing is known to be in the store.
        """

    async def watch(self, topics: Sequence[str], start: Start) -> Sequence[Log]:
        """The logs of `topics`, which from now on grow with every event, until `unwatch` was called as often.

        On return, and until the caller awaits something else, they answer for `start` as the store itself would, and
        `last_id` is what it was at some moment during the call, or newer.

        Raises:
            Unavailable: the store can't vouch for them within a second; nothing is watched.
        """

    def unwatch(self, topics: Sequence[str]) -> None:
        """Take one `watch` of each of `topics` back."""

    def is_lost(self, cursor: EventId) -> bool:
        """Whether `cursor` is of a time that the store went back behind, so that nobody can tell what it had seen."""

    def resume(self) -> None:
        """There is room for more; cheap, and called often."""

    def written(self, topic: str) -> None:
        """What was held for the subscribers of `topic` is held no more: trim its log."""

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        """End `topic` with `reason`; the id of its end, be it one that it had already.

        None, and nothing is done, where it goes on: its last id is not `if_last`, of those who name one.
        """

    async def lease(self, topic: str, seconds: float | None) -> None:
        """Have `topic` end, `abandoned`, unless it ends, is deleted, or this is called again within `seconds`; None: never.

        Also if this instance is gone by then: any that shares the store sees to it, within a few seconds. Of several leases
        the longest counts. A topic that has ended is left alone.

        Raises:
            RateLimited: there is no room for another lease.
            Unavailable: the lease may not have been taken.
        """

    async def delete(self, topic: str) -> None:
        """Empty `topic`, and open it again if it had ended; those subscribed are delivered its end."""

    async def tell(self, notice: str, until: float | None = None) -> None:
        """Have all instances heed `notice`; on return this one has, and those that can be reached are about to.

        With `until` (seconds since 1970) it is kept that long: who can't be reached now, or begins later, heeds it then.

        Raises:
            RateLimited: there is no room for another one that is kept.
            Unavailable: the others are not known to hear of it; this one hasn't heeded it.
        """

    def hold(self, name: str, count: int) -> None:
        """This instance holds `count` of `name`, such as streams of an address; the others know it within a second."""

    async def held_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        """How many of each of `names` the other instances hold, at most 2 s ago. Raises `Unavailable`."""

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        """What is held of each of `topics`, be it nothing; at most 2 s old."""

    async def topics(self, after: str, limit: int) -> Sequence[str]:
        """Names after `after`, sorted, at most `limit`: those with a record and those watched."""

    def sweep(self) -> None:
        """One short step of dropping what became too old; called about once a second."""

    @property
    def log_bytes(self) -> int:
        """Memory that the logs take here, in bytes."""

    @property
    def topic_count(self) -> int:
        """How many topics have a record here."""

    @property
    def health(self) -> Health:
        """For the metrics."""

    def checks(self) -> dict[str, str]:
        """By name, `"ok"` or what is wrong: the store's part of readiness (contract §6)."""
