"""The client's values: gaps and ends, connection states, the start and the limits of a subscription, the state of a topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from broker.client.errors import SubscribeError
from broker.durations import parse_duration
from broker.events import Event

FAILED = "failed"
"""The reason of an end after an exception in the producer."""
STOPPED = "stopped"
"""The reason of an end after the application cancelled its producer."""
INCOMPLETE = frozenset({"abandoned", "deleted", FAILED})
"""Reasons of an end that leave a topic incomplete against its publisher's will."""


@dataclass(frozen=True, slots=True)
class Gap(Event):
    """Events are missing here: this subscription cannot get them any more.

    A gap is an event, so that code which looks at event types sees it. It comes before the first event after the gap. Its
    `type` is `broker.gap`, which publishers cannot use; its `data` is the broker's JSON; its `id` is the unchanged cursor.

    Attributes:
        after: the cursor after which events are missing.
        reason: `trimmed` (by retention), `lost` (by the store) or `unknown-id` (the cursor is not one of this store).
    """

    after: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class End(Event):
    """`topic` has ended: no event follows. A subscription returns it only if it was made with `ends=True`.

    Its `type` is `broker.end`, which publishers cannot use; its `data` is the broker's JSON; its `id` is that of the end.

    Attributes:
        reason: `closed`, `deleted`, `abandoned` (its producer disappeared), `cancelled`, or the publisher's own word.
    """

    reason: str = ""

    def raise_if_incomplete(self) -> None:
        """Raise a `SubscribeError` with the reason as its code if the topic ended against its publisher's will.

        Its events may then be incomplete.
        """
        if self.reason in INCOMPLETE:
            detail = f"{self.topic} ended as {self.reason}, so its events may be incomplete."
            raise SubscribeError(self.reason, detail)


@dataclass(frozen=True, slots=True)
class Connection:
    """The state of the connection, as passed to `on_change`. If it is not `up`: why, and when the next attempt starts."""

    up: bool
    why: str = ""
    retry_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TopicState:
    """What the broker has of a topic, over all its instances; at most 2 s old.

    Attributes:
        subscribers: how many subscribers it has.
        events: how many events it keeps.
        bytes: their size.
        first_id: the id of the first kept event, or None.
        last_id: the id of the last event, even if the broker has dropped that event; else None.
        closed: whether the topic has ended.
    """

    topic: str
    subscribers: int
    events: int
    bytes: int
    first_id: str | None
    last_id: str | None
    closed: bool


@dataclass(frozen=True, slots=True)
class Published:
    """How many events a request published, and the first and last id.

    The ids are None if nothing was published, or if each event named its own topic.
    """

    count: int
    first_id: str | None = None
    last_id: str | None = None


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Where a subscription without a cursor starts. By default it gets new events only."""

    since: str | None = None
    last: int | None = None
    cursor: str = ""

    @classmethod
    def of(cls, *, since: str | None, last: int | None, cursor: str | None) -> Self:
        """The start that is given. Raises `ValueError`: there is more than one, or the cursor cannot be sent in a header."""
        if sum(given is not None for given in (since, last, cursor)) > 1:
            raise ValueError("give only one of since, last and cursor")
        return cls(since, last, check_cursor(cursor or ""))

    @property
    def is_latest(self) -> bool:
        """Whether the stream begins with `broker.open`, which carries a cursor."""
        return self.since in (None, "latest") and not self.last and not self.cursor

    def query(self, waited_seconds: float) -> dict[str, str]:
        """The query parameters.

        A duration in `since` is meant from the start of the subscription: `waited_seconds`, the time since then, are
        added to it.
        """
        if self.last is not None:
            return {"last": str(self.last)}
        if self.since is None:
            return {}
        seconds = parse_duration(self.since)
        if seconds is not None and waited_seconds >= 1:
            return {"since": f"{seconds + int(waited_seconds) + 1}s"}
        return {"since": self.since}


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The arguments of `Client` with the same names."""

    timeout_seconds: float
    patience_seconds: float
    silence_seconds: float
    max_delay_seconds: float
    max_event_bytes: int


def check_cursor(cursor: str) -> str:
    """Return `cursor` if it can be sent in a header; the broker checks the rest. Raises `ValueError`."""
    if cursor.isascii() and cursor.isprintable():
        return cursor
    raise ValueError(f"{cursor!r} is not a cursor")
