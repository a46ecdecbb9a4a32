"""The values of a subscription: gaps, connection states, its start, its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from broker.durations import parse_duration
from broker.events import Event


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
class Connection:
    """The state of the connection, as passed to `on_change`. If it is not `up`: why, and when the next attempt starts."""

    up: bool
    why: str = ""
    retry_seconds: float = 0.0


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
