"""One entry of a topic's log: an event, an end, or nothing but a gap.

Rules: a value; what it means to a reader is its log's business.
"""

from __future__ import annotations

from broker.events import EventId


class Entry:
    """One event of a log: encoded once, shared by all that read it (I5).

    Attributes:
        prev: the id of the topic's entry before this one; nothing lies between them.
        frame: the event as it goes over the wire.
        enveloped: its envelope form, made when somebody first asks for it.
        end: whether it ends the topic for those who are subscribed (`broker.end`).
        gap: why whoever comes from before `prev` is told of a gap in front of this entry; None where that was no hole
            of the log's. Such an entry may have an empty frame: then it is nothing but the gap.
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
