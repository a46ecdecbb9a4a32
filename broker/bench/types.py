"""What the processes of a run are told and tell, through their pipes.

Rules: frozen values of plain fields, small enough to be pickled ten times a second. Times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.bench.tally import Tally


@dataclass(frozen=True, slots=True)
class Connecting:
    """How far connecting is; `refusal` is the first reason that was given."""

    connected: int
    refused: int
    refusal: str
    first_ns: int
    last_ns: int
    done: bool


@dataclass(frozen=True, slots=True)
class Started:
    """What was delivered before is forgotten."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How many events have been delivered since "start"."""

    delivered: int


@dataclass(frozen=True, slots=True)
class Readings:
    """All that a reading process has to tell at the end."""

    delivered: int
    ages: Tally
    last_ns: int
    closed: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class Task:
    """What one publishing process takes on: `publishers` connections, `rate` events a second (0: unpaced)."""

    publishers: int
    rate: float
    duration: float


@dataclass(frozen=True, slots=True)
class Published:
    """How many events have been answered 2xx."""

    published: int


@dataclass(frozen=True, slots=True)
class Writings:
    """All that a publishing process has to tell at the end. `expected`: deliveries that its events must lead to.

    `unanswered` events may or may not have been published.
    """

    published: int
    expected: int
    failed: int
    failure: str
    unanswered: int
    first_ns: int
    last_ns: int
    ages: Tally
    cpu_ns: int
