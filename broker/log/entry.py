"""One entry of a topic's log: an event, an end, or only a gap.

Rules: a value; its log decides its meaning to a reader.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.events import EventId


class Entry:
    """One entry. Its event is encoded once for all readers (I5).

    Attributes:
        prev: the id of the topic's entry before this one; nothing lies between them.
        frame: the event as it goes over the wire; empty for a gap.
        enveloped: the envelope form, made when a reader first needs it.
        end: whether it ends the topic (`broker.end`).
        gap: None for an event or an end. Else the reason of a gap: events up to this id, which is also `prev`, are
            missing. A gap is an entry of its own, so that a merge of several logs has it in its place.
    """

    __slots__ = ("end", "enveloped", "frame", "gap", "id", "prev")

    def __init__(
        self, event_id: EventId, prev: EventId, frame: bytes, *, end: bool = False, gap: str | None = None
    ) -> None:
        self.id = event_id
        self.prev = prev
        self.frame = frame
        self.enveloped: bytes | None = None
        self.end = end
        self.gap = gap


ENTRY_OVERHEAD_BYTES = 200
"""Memory of an entry without its frame, measured."""


def with_gaps(entries: Sequence[Entry], joint: EventId, losses: Sequence[EventId]) -> Sequence[Entry]:
    """`entries`, oldest first, with a gap wherever one doesn't join the next, or the last one doesn't reach `joint`.

    A store that went back lacks events that lie between its own and those of a log in front of which they are put. It may
    also have trimmed some between two pages.

    Args:
        losses: events before each of these ids may be lost.
    """
    result: list[Entry] = []

    def join(prev: EventId) -> None:
        if result and prev > result[-1].id:
            is_lost = any(prev < loss for loss in losses)
            result.append(Entry(prev, prev, b"", gap="lost" if is_lost else "trimmed"))

    for entry in entries:
        if entry.gap is None:
            join(entry.prev)
        result.append(entry)
    join(joint)
    return result
