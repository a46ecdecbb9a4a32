"""The messages between the coordinator and its processes.

Rules: frozen values of plain fields, small enough to be pickled ten times a second. Times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from broker.bench.histogram import Counts

Command = Literal["start", "stop"]
"""To a process: count deliveries, or publish, from now on; stop and send the result."""


class ProgressReporter(Protocol):
    """Shows the user how far a run is."""

    def begin(self, title: str, total: float | None) -> None:
        """A phase starts; `total` is the final value of `update`."""

    def update(self, done: float) -> None:
        """`done` of the phase's `total` is complete."""


@dataclass(frozen=True, slots=True)
class ConnectProgress:
    """How many subscribers are connected or refused; `refusal` is the reason of the first refusal."""

    connected: int
    refused: int
    refusal: str
    first_ns: int
    last_ns: int
    done: bool


@dataclass(frozen=True, slots=True)
class CountingStarted:
    """The process has set its counts to zero."""


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """How many events were delivered since the command "start"."""

    delivered: int


@dataclass(frozen=True, slots=True)
class SubscriberResult:
    """The result of a process full of subscribers."""

    delivered: int
    latencies: Counts
    last_ns: int
    closed: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class PublisherShare:
    """The load of one publishing process: `publishers` connections, `rate` events a second (0: unpaced)."""

    publishers: int
    rate: float
    duration: float


@dataclass(frozen=True, slots=True)
class PublishedCount:
    """How many events were answered with 2xx."""

    published: int


@dataclass(frozen=True, slots=True)
class PublisherResult:
    """The result of a publishing process.

    Attributes:
        expected: how many deliveries its events must lead to.
        unanswered: how many events may or may not have been published.
    """

    published: int
    expected: int
    failed: int
    failure: str
    unanswered: int
    first_ns: int
    last_ns: int
    latencies: Counts
    cpu_ns: int
