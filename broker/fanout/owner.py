"""What the hub needs from outside: the logs, the event loop, and an owner that it reports to.

Rules: protocols and values only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.events import EventId
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from broker.measures import Distribution


class LogSource(Protocol):
    """Where the logs come from; see `stores.base.WatchedLogs`."""

    @property
    def complete_to(self) -> EventId: ...

    def unwatch(self, topics: Sequence[str]) -> None: ...

    def trim(self, topic: str) -> None: ...

    def resume(self) -> None: ...


class Scheduler(Protocol):
    """The part of an event loop that the hub uses. Times are in seconds."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


class HubOwner(Protocol):
    """Learns when the hub's streams close, age or get a gap.

    Attributes:
        written: for each pass of fan-out it gets the seconds from publishing its oldest event until the end of the pass.
    """

    written: Distribution

    def closed(self, subscriber: Subscriber, reason: CloseReason, age: float) -> None:
        """A connection is gone, after `age` seconds. Called once for each."""

    def gap_sent(self, topics: Sequence[str], reason: str, subscribers: int) -> None:
        """A gap within one of the logs of `topics` was written to `subscribers` of them."""

    def replayed(self, seconds: float) -> None:
        """A stream that began with kept events has them all, after `seconds`."""

    def aged(self, subscriber: Subscriber) -> None:
        """A stream has reached its maximum age: end it."""


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """The settings of the same names.

    Attributes:
        heartbeat_seconds: silence after which a heartbeat is written.
        slow_seconds: how long a lagging subscriber may take nothing.
        max_age_seconds: the maximum age of a stream; 0 for none. Streams close at a random moment in the last fifth of it,
            so that those opened together don't reconnect together.
    """

    heartbeat_seconds: float
    slow_seconds: float
    max_age_seconds: float
