"""Where a subscriber starts: what a request asks for, and what that means for the logs as they are now.

Rules: values only. A `Start` is parsed from the request's text without looking at a log. `position` then reads the
logs, in one step with attaching the subscriber, so that nothing happens in between. The rules are contract §3, "Where
it starts".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

from broker import sse
from broker.durations import parse_duration
from broker.errors import InvalidParameter
from broker.events import EventId, parse_id
from broker.log.entry import Entry
from broker.log.log import Log
from broker.log.timeline import Timeline

MAX_LAST = 1_000_000
MAX_CURSOR_CHARS = 128

_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_SPACE_FOR_PLUS = re.compile(r" (?=\d\d:\d\d$)")


@dataclass(frozen=True, slots=True)
class Latest:
    """New events only."""


@dataclass(frozen=True, slots=True)
class After:
    """Everything after a cursor, or a gap; `text` is the cursor as the client sent it."""

    cursor: EventId
    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A cursor that isn't an id: a gap, then everything kept."""

    text: str


@dataclass(frozen=True, slots=True)
class Since:
    """Everything kept since a time, in seconds since 1970; never a gap."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Last:
    """The newest `count` events of each topic, then new ones. If there are none, the same as `Latest`."""

    count: int


Start = Latest | After | Malformed | Since | Last


def from_cursor(text: str) -> Start:
    """The start that `Last-Event-ID` or `lastEventId` asks for. Never an error: EventSource would give up for good."""
    cursor = parse_id(text)
    return Malformed(text[:MAX_CURSOR_CHARS]) if cursor is None else After(cursor, text)


def from_since(text: str, now: float) -> Start:
    """The start that `since` asks for: an id, `earliest`, `latest`, an RFC 3339 time, or an age (`90s`, `10m`, `2h`).

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
    age = parse_duration(text)
    return Since(_time(text) if age is None else now - age)


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


def cursor_before(seconds: float, timeline: Timeline) -> EventId:
    """The cursor that everything since a time follows."""
    return max(0, timeline.first_id(seconds) - 1)


def from_last(text: str) -> Start:
    """The start that `last` asks for: a number of events.

    Raises:
        InvalidParameter: it isn't a whole number from 0 to 1,000,000.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and int(text) <= MAX_LAST):
        raise InvalidParameter(f"'last' takes a whole number from 0 to {MAX_LAST}.")
    return Last(int(text)) if int(text) else Latest()


class Position(NamedTuple):
    """Where a subscriber starts.

    Attributes:
        topics: those it reads; not closed ones if it has seen their end or gets it in `preface`.
        cursor: where it starts to read.
        floors: where it starts to read each of `topics`; empty if that is `cursor` for all.
        preface: control events to be written before anything else.
        gaps: the reasons of the gaps in `preface`.
        gap_topics: their topics.
    """

    topics: tuple[str, ...]
    cursor: EventId
    floors: tuple[EventId, ...]
    preface: bytes
    gaps: tuple[str, ...]
    gap_topics: tuple[str, ...] = ()


class StoreState(Protocol):
    """The part of `stores.base.WatchedLogs` that `position` reads."""

    @property
    def born(self) -> EventId: ...

    @property
    def last_id(self) -> EventId: ...

    @property
    def received_to(self) -> EventId: ...

    @property
    def timeline(self) -> Timeline: ...

    def is_lost(self, cursor: EventId) -> bool: ...


def has_seen_all(start: Start, logs: Sequence[Log], store: StoreState) -> bool:
    """Whether all topics of `logs` are closed, and `start` is a cursor at or after each end."""
    return isinstance(start, After) and all(_has_seen_end(start.cursor, log, store) for log in logs)


def _has_seen_end(cursor: EventId, log: Log, store: StoreState) -> bool:
    if log.end is None or not log.end.id <= cursor <= store.last_id:
        return False
    return cursor >= max(store.born, log.lost_at) and not store.is_lost(cursor)


def position(start: Start, topics: Sequence[str], logs: Sequence[Log], store: StoreState) -> Position:
    """Where a subscriber to `topics` starts. `logs` are theirs, and reach back as far as `start` asks."""
    if _is_latest(start, logs):
        return _latest(topics, logs, store)
    reading = list(zip(topics, logs, strict=True))
    if isinstance(start, After) and any(log.end is not None for log in logs):
        reading = [(topic, log) for topic, log in reading if not _has_seen_end(start.cursor, log, store)]
    preface, gaps, gap_topics = _gaps(start, reading, store)
    if isinstance(start, After) and start.cursor <= store.last_id:
        ended = [log.end for _, log in reading if log.end is not None and log.end.id <= start.cursor]
        if ended:
            reading = [(topic, log) for topic, log in reading if log.end not in ended]
            preface += _ends_again(ended, start.cursor, store, is_all=not reading)
    floors = tuple(_floor(start, log, store) for _, log in reading)
    cursor = min(floors, default=store.received_to)
    is_same = cursor == max(floors, default=cursor)
    return Position(
        tuple(topic for topic, _ in reading), cursor, () if is_same else floors, preface, gaps, gap_topics
    )


def _ends_again(ends: Sequence[Entry], cursor: EventId, store: StoreState, *, is_all: bool) -> bytes:
    """The ends of topics that a cursor has passed, after a gap: the store went back, so the topics may have been open since.

    An end's own id would move the cursor back, and other topics would repeat events. So the ends carry no id; but if no other
    topic is left, the last end has an id after the loss: a client that comes back with it gets 204.
    """
    frames = [sse.with_id(end.frame, None) for end in ends]
    if is_all and store.received_to > cursor:
        frames[-1] = sse.with_id(ends[-1].frame, store.received_to)
    return b"".join(frames)


def _is_latest(start: Start, logs: Sequence[Log]) -> bool:
    """Whether only new events come; also for `last` with nothing to replay, as the id in `broker.open` must be sent."""
    if isinstance(start, Last):
        return all(log.start_before(start.count) == log.last for log in logs)
    return isinstance(start, Latest)


def _latest(topics: Sequence[str], logs: Sequence[Log], store: StoreState) -> Position:
    """New events only, and the ends of closed topics.

    If topics are closed, a `broker.open` without an id precedes their ends, so that a client that is cut there doesn't come
    back with a cursor after them. A second one, with an id, follows for the open topics (I1).
    """
    cursor = store.received_to
    ends = sorted(
        (log.end.id, topic, log.end.frame)
        for topic, log in zip(topics, logs, strict=True)
        if log.end is not None and log.end.id <= cursor
    )
    if not ends:
        return Position(tuple(topics), cursor, (), _open_event(topics, cursor), ())
    closed = {topic for _, topic, _ in ends}
    reading = tuple(topic for topic in topics if topic not in closed)
    preface = _open_event(topics, None) + b"".join(frame for _, _, frame in ends)
    if reading:
        preface += _open_event(reading, cursor if cursor > ends[-1][0] else None)
    return Position(reading, cursor, (), preface, ())


def _open_event(topics: Sequence[str], cursor: EventId | None) -> bytes:
    event_lines = _open_lines(tuple(topics))
    return event_lines + b"\n" if cursor is None else sse.frame(event_lines, cursor)


@lru_cache(maxsize=1024)
def _open_lines(topics: tuple[str, ...]) -> bytes:
    """The lines of `broker.open` without its id: after a deploy, thousands ask for the same topics."""
    return sse.control("broker.open", {"topics": topics})[:-1]


def _gaps(
    start: Start, reading: Sequence[tuple[str, Log]], store: StoreState
) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """The `broker.gap` events that precede everything else, their reasons and their topics."""
    cursor = cursor_text(start)
    gaps = [(topic, reason) for topic, log in reading if (reason := _gap(start, log, store)) is not None]
    events = b"".join(sse.gap(topic, cursor, reason) for topic, reason in gaps)
    return events, tuple(reason for _, reason in gaps), tuple(topic for topic, _ in gaps)


def cursor_text(start: Start) -> str:
    """The cursor as the client sent it; "" if it sent none."""
    return start.text if isinstance(start, After | Malformed) else ""


def _gap(start: Start, log: Log, store: StoreState) -> str | None:
    """The reason of the gap that a subscriber starts with, or None."""
    if isinstance(start, Malformed):
        return "unknown-id"
    if not isinstance(start, After):
        return None
    if start.cursor > store.last_id:
        return "unknown-id"
    if start.cursor < store.born or store.is_lost(start.cursor):
        return "lost"
    if log.end is not None and log.end.id <= start.cursor:
        return "lost"  # events after the end, else the topic would not be read
    return "trimmed" if log.has_gap(start.cursor) else None


def _floor(start: Start, log: Log, store: StoreState) -> EventId:
    """The cursor at which `start` begins to read `log`, never after the log's end."""
    floor = _floor_of_events(start, log, store)
    return floor if log.end is None else min(floor, log.end.prev)


def _floor_of_events(start: Start, log: Log, store: StoreState) -> EventId:
    match start:
        case After(cursor):
            return log.start_after(cursor) if cursor <= store.last_id else store.received_to
        case Since(seconds):
            return log.start_after(min(cursor_before(seconds, store.timeline), store.received_to))
        case Last(count):
            return log.start_before(count)
        case _:
            return log.start_after(0)
