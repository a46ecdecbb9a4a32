"""Where a subscriber starts: what a request asks for, and what that means for the logs as they are.

Rules: values only. A `Start` is parsed from the request's words without looking at any log; `positions` then reads the
logs, in one step with the attaching, so that nothing comes between. The rules are contract §3, "Where it starts".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker import sse
from broker.errors import InvalidParameter
from broker.events import EventId, id_at, parse_id
from broker.log import Log

MAX_LAST = 1_000_000
MAX_CURSOR_CHARS = 128

_AGE = re.compile(r"([0-9]{1,9})([smh])")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600}
_SPACE_FOR_PLUS = re.compile(r" (?=\d\d:\d\d$)")


@dataclass(frozen=True, slots=True)
class Latest:
    """New events only."""


@dataclass(frozen=True, slots=True)
class After:
    """Everything after a cursor, or a gap; `text` is the cursor as it was given."""

    cursor: EventId
    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A cursor that no store ever gave: a gap, then everything kept."""

    text: str


@dataclass(frozen=True, slots=True)
class Since:
    """From a time on, seconds since 1970, as far as retention reaches: no gap."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Last:
    """The newest `count` events of each topic, then what follows; where there are none, it is as `Latest`."""

    count: int


Start = Latest | After | Malformed | Since | Last


def from_cursor(text: str) -> Start:
    """What `Last-Event-ID` or `lastEventId` asks for; never an error, for EventSource would give up for good."""
    cursor = parse_id(text)
    return Malformed(text[:MAX_CURSOR_CHARS]) if cursor is None else After(cursor, text)


def from_since(text: str, now: float) -> Start:
    """What `since` asks for: an id, `earliest`, `latest`, an RFC 3339 time, or an age such as `90s`, `10m`, `2h`.

    Raises:
        InvalidParameter: it is none of these.
    """
    if text == "latest":
        return Latest()
    if text == "earliest":
        return Since(0)
    cursor = parse_id(text)
    if cursor is not None:
        return After(cursor, text)
    age = _AGE.fullmatch(text)
    if age:
        return Since(now - int(age[1]) * _AGE_SECONDS[age[2]])
    return Since(_time(text))


def _time(text: str) -> float:
    text = _SPACE_FOR_PLUS.sub("+", text)
    try:
        time = datetime.fromisoformat(text.upper()) if _TIME.fullmatch(text) else None
    except ValueError:
        time = None
    if time is None:
        raise InvalidParameter(
            "'since' takes an id, 'earliest', 'latest', an RFC 3339 time with its offset, or an age such as 90s, 10m, 2h."
        )
    return time.timestamp()


def from_last(text: str) -> Start:
    """What `last` asks for: a number of events.

    Raises:
        InvalidParameter: it is no whole number from 0 to 1,000,000.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and int(text) <= MAX_LAST):
        raise InvalidParameter(f"'last' takes a whole number from 0 to {MAX_LAST}.")
    return Last(int(text)) if int(text) else Latest()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a subscriber begins.

    Attributes:
        cursor: from where it reads.
        floors: for each topic, from where it reads that one; empty where that is the cursor for all.
        preface: control events that come before anything else.
        gaps: the reasons of the gaps told in `preface`.
    """

    cursor: EventId
    floors: tuple[EventId, ...]
    preface: bytes
    gaps: tuple[str, ...]


def position(
    start: Start,
    topics: Sequence[str],
    logs: Sequence[Log],
    *,
    born: EventId,
    last_id: EventId,
    is_lost: Callable[[EventId], bool],
) -> Position:
    """What `start` means for `logs`, those of `topics`, which reach back as far as it asks.

    The store was born at `born`, its last id is `last_id`; `is_lost` tells of a cursor whether it comes from a time that
    the store has lost.
    """
    if isinstance(start, Latest):
        opening = sse.control("broker.open", {"topics": list(topics)}, last_id)
        return Position(last_id, (), opening, ())
    if isinstance(start, Last) and all(log.start_before(start.count) == log.last for log in logs):
        # else a reconnect would start N back again
        return position(Latest(), topics, logs, born=born, last_id=last_id, is_lost=is_lost)
    gaps = [_gap(start, log, born, last_id, is_lost) for log in logs]
    preface = b"".join(
        sse.gap(topic, _cursor_text(start), reason)
        for topic, reason in zip(topics, gaps, strict=True)
        if reason is not None
    )
    floors = tuple(_floor(start, log, last_id) for log in logs)
    cursor = min(floors)
    return Position(
        cursor,
        floors if cursor != max(floors) else (),
        preface,
        tuple(reason for reason in gaps if reason is not None),
    )


def _gap(
    start: Start, log: Log, born: EventId, last_id: EventId, is_lost: Callable[[EventId], bool]
) -> str | None:
    if isinstance(start, Malformed):
        return "unknown-id"
    if not isinstance(start, After):
        return None
    if start.cursor > last_id:
        return "unknown-id"
    if is_lost(start.cursor):
        return "lost"
    if not log.has_gap(start.cursor):
        return None
    return "lost" if start.cursor < born else "trimmed"


def _floor(start: Start, log: Log, last_id: EventId) -> EventId:
    match start:
        case After(cursor):
            return log.start_after(cursor) if cursor <= last_id else last_id
        case Since(seconds):
            return log.start_after(min(max(0, id_at(seconds) - 1), last_id))
        case Last(count):
            return log.start_before(count)
        case _:
            return log.start_after(0)


def _cursor_text(start: Start) -> str:
    return start.text if isinstance(start, After | Malformed) else ""
