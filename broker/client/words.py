"""Values of a subscription: where it starts, what it is told besides events, and its bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from broker.events import Event

_AGE = re.compile(r"(\d{1,9})([smh])")
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Gap(Event):
    """Events that this subscription can't get any more, told before the first event behind them (contract §1).

    An event among events, so that nobody overlooks it who looks at types: its `type` is `broker.gap`, which no publisher can
    use, its `data` the broker's JSON, its `id` the cursor, which stays.

    Attributes:
        after: the cursor behind which events are missing.
        reason: `trimmed` by retention, `lost` with the store, or `unknown-id`: not a cursor of this store.
    """

    after: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """What `on_change` is told: whether the connection is up; if not, why, and in how many seconds it is tried again."""

    up: bool
    why: str = ""
    retry_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription starts that has no cursor yet; with neither it is live only."""

    since: str | None = None
    last: int | None = None
    cursor: str = ""

    @classmethod
    def of(cls, *, since: str | None, last: int | None, cursor: str | None) -> Self:
        """Raises `ValueError` for more than one start, or a cursor that no header can carry."""
        if sum(given is not None for given in (since, last, cursor)) > 1:
            raise ValueError("since, last and cursor exclude each other")
        return cls(since, last, check_cursor(cursor or ""))

    @property
    def is_latest(self) -> bool:
        """Whether a stream begins with `broker.open`, which brings a cursor."""
        return self.since in (None, "latest") and not self.last and not self.cursor

    def query(self, waited_seconds: float) -> dict[str, str]:
        """What to ask for; an age grows by what went by since it was meant, so that nothing falls out of it meanwhile."""
        if self.last is not None:
            return {"last": str(self.last)}
        if self.since is None:
            return {}
        age = _AGE.fullmatch(self.since)
        if age and waited_seconds >= 1:
            return {"since": f"{int(age[1]) * _AGE_SECONDS[age[2]] + int(waited_seconds) + 1}s"}
        return {"since": self.since}


@dataclass(frozen=True, slots=True)
class Limits:
    """See the arguments of `Client` of the same names."""

    timeout_seconds: float
    silence_seconds: float
    max_delay_seconds: float
    max_event_bytes: int


def check_cursor(cursor: str) -> str:
    """`cursor` itself, if a header can carry it; whether it is one is for the broker to say. Raises `ValueError`."""
    if cursor.isascii() and cursor.isprintable():
        return cursor
    raise ValueError(f"{cursor!r} is no cursor")
