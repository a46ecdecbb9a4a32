"""Where a subscriber starts: what a request asks for, and what that means for the logs as they are.

Rules: values only. A `Start` is parsed from the request's words without looking at any log; `positions` then reads the
logs, in one step with the attaching, so that nothing comes between. The rules are contract §3, "Where it starts".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker import sse
from broker.errors import InvalidParameter
from broker.events import EventId, id_at, parse_id
from broker.log.log import Log

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
    age = age_seconds(text)
    return Since(_time(text) if age is None else now - age)


def age_seconds(text: str) -> int | None:
    """The seconds of an age such as `90s`, `10m`, `2h`; None where it is none."""
    age = _AGE.fullmatch(text)
    return int(age[1]) * _AGE_SECONDS[age[2]] if age else None


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
        topics: what it reads; those are left out that ended before, and of which it has, or is told in `preface`, the end.
        cursor: from where it reads.
        floors: for each topic, from where it reads that one; empty where that is the cursor for all.
        preface: control events that come before anything else.
        gaps: the reasons of the gaps told in `preface`.
    """

    topics: tuple[str, ...]
    cursor: EventId
    floors: tuple[EventId, ...]
    preface: bytes
    gaps: tuple[str, ...]


class StoreState(Protocol):
    """What a start needs to know of the store; see `stores.base.WatchedLogs`."""

    @property
    def born(self) -> EventId: ...

    @property
    def last_id(self) -> EventId: ...

    @property
    def received_to(self) -> EventId: ...

    def is_lost(self, cursor: EventId) -> bool: ...


def has_all(start: Start, logs: Sequence[Log], store: StoreState) -> bool:
    """Whether all of `logs` are of topics that have ended, and who starts there has seen each of these ends."""
    return isinstance(start, After) and all(_has_end(start, log, store) for log in logs)


def _has_end(start: After, log: Log, store: StoreState) -> bool:
    end, cursor = log.end, start.cursor
    if end is None or not end.id <= cursor <= store.last_id:
        return False
    return cursor >= max(store.born, log.lost_at) and not store.is_lost(cursor)


def position(start: Start, topics: Sequence[str], logs: Sequence[Log], store: StoreState) -> Position:
    """What `start` means for `logs`, those of `topics`, which reach back as far as it asks."""
    if isinstance(start, Latest):
        return _latest(topics, logs, store)
    if isinstance(start, Last) and all(log.start_before(start.count) == log.last for log in logs):
        return _latest(topics, logs, store)  # else a reconnect would start N back again
    if isinstance(start, After) and any(log.end is not None for log in logs):
        left = [
            (topic, log) for topic, log in zip(topics, logs, strict=True) if not _has_end(start, log, store)
        ]
        topics, logs = [topic for topic, _ in left], [log for _, log in left]
    gaps = [_gap(start, log, store) for log in logs]
    preface = b"".join(
        sse.gap(topic, _cursor_text(start), reason)
        for topic, reason in zip(topics, gaps, strict=True)
        if reason is not None
    )
    floors = tuple(_floor(start, log, store) for log in logs)
    cursor = min(floors)
    return Position(
        tuple(topics),
        cursor,
        floors if cursor != max(floors) else (),
        preface,
        tuple(reason for reason in gaps if reason is not None),
    )


def _latest(topics: Sequence[str], logs: Sequence[Log], store: StoreState) -> Position:
    """New events only. Of topics that have ended the end is told: after a `broker.open` without an id, lest the reader come
    back with a cursor behind it, and before one with an id for those that are left (I1).
    """
    cursor = store.received_to
    ends = sorted(
        (log.end.id, topic, log.end.frame)
        for topic, log in zip(topics, logs, strict=True)
        if log.end is not None and log.end.id <= cursor
    )
    if not ends:
        return Position(tuple(topics), cursor, (), _open(topics, cursor), ())
    told = {topic for _, topic, _ in ends}
    left = tuple(topic for topic in topics if topic not in told)
    preface = _open(topics, None) + b"".join(frame for _, _, frame in ends)
    if left:
        preface += _open(left, cursor if cursor > ends[-1][0] else None)
    return Position(left, cursor, (), preface, ())


def _open(topics: Sequence[str], cursor: EventId | None) -> bytes:
    return sse.control("broker.open", {"topics": list(topics)}, cursor)


def _gap(start: Start, log: Log, store: StoreState) -> str | None:
    if isinstance(start, Malformed):
        return "unknown-id"
    if not isinstance(start, After):
        return None
    if start.cursor > store.last_id:
        return "unknown-id"
    if store.is_lost(start.cursor):
        return "lost"
    if log.end is not None and log.end.id <= start.cursor:
        return "lost"  # what came behind the end, else it would be left out
    if not log.has_gap(start.cursor):
        return None
    return "lost" if start.cursor < store.born else "trimmed"


def _floor(start: Start, log: Log, store: StoreState) -> EventId:
    floor = _floor_of_events(start, log, store)
    return floor if log.end is None else min(floor, log.end.prev)


def _floor_of_events(start: Start, log: Log, store: StoreState) -> EventId:
    match start:
        case After(cursor):
            return log.start_after(cursor) if cursor <= store.last_id else store.received_to
        case Since(seconds):
            return log.start_after(min(max(0, id_at(seconds) - 1), store.received_to))
        case Last(count):
            return log.start_before(count)
        case _:
            return log.start_after(0)


def _cursor_text(start: Start) -> str:
    return start.text if isinstance(start, After | Malformed) else ""
