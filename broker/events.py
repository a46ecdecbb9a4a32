"""Event ids, and events as a client sees them.

An id has the form of a Redis stream id, `<milliseconds>-<n>` (contract §1). Inside the broker it is the integer `ms << 64 | n`:
ids then compare and increment like integers. Only input and output use the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

EventId = int
Clock = Callable[[], float]  # seconds since 1970; injected, so that tests control it

SEQUENCE_BITS = 64
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
_PART_LIMIT = 1 << 64
_PART_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a subscriber receives it. `topic` is None unless the event came in the envelope form."""

    data: str
    type: str | None = None
    id: str = ""
    topic: str | None = None


def id_at(seconds: float) -> EventId:
    """The lowest id of the millisecond that contains `seconds` (since 1970); 0 for times before 1970."""
    return max(0, int(seconds * 1000)) << SEQUENCE_BITS


def id_seconds(event_id: EventId) -> float:
    """The time in an id, in seconds since 1970."""
    return (event_id >> SEQUENCE_BITS) / 1000


def format_id(event_id: EventId) -> str:
    """The text form of an id, `<ms>-<n>`."""
    return f"{event_id >> SEQUENCE_BITS}-{event_id & SEQUENCE_MASK}"


def parse_id(text: str) -> EventId | None:
    """The id in text form, or None if `text` is not two decimal numbers of at most 64 bits joined by `-`."""
    ms, dash, n = text.partition("-")
    if not dash or not _is_number(ms) or not _is_number(n):
        return None
    return int(ms) << SEQUENCE_BITS | int(n)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _PART_DIGITS and int(text) < _PART_LIMIT


def rfc3339(seconds: float) -> str:
    """A time in seconds since 1970 as UTC with milliseconds, such as `2026-11-22T07:54:40.123Z` (RFC 3339 §5.6)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
