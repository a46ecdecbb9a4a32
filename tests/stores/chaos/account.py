"""What one subscriber received of one topic: which events, which gaps, and which events its gaps cover.

Coverage: on one connection, a gap lies between two events of its topic. It covers all missing events between them, if the last of
these comes after the gap's `after`. A gap that arrives after the cursor has passed all missing events covers none of them: a client
that lost its connection just before would never have learned of the hole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.events import EventId
from tests.stores.chaos.ledger import Attempt


@dataclass(slots=True)
class Gap:
    """A `broker.gap` after the event `since` and before the event `until` of its topic."""

    reason: str
    since: EventId
    after: EventId
    at: float
    until: float = math.inf


@dataclass(slots=True)
class Account:
    """One subscriber's record of one topic.

    Attributes:
        floor: later events are due; None before the first cursor.
        newest: the id of the last event or end, or the connection's first cursor.
        seen: the ids of the events received.
        gaps: the gaps received.
        left_out: ranges of ids that a connection passed without this topic: after its end, no event of it follows.
        last_end: the newest end received on any connection.
        is_closed: the last thing received of this topic was an end that isn't a DELETE, so a connection may leave it out.
        is_ended: this connection has received an end.
    """

    floor: EventId | None = None
    newest: EventId = 0
    seen: set[EventId] = field(default_factory=set)
    gaps: list[Gap] = field(default_factory=list)
    left_out: list[tuple[EventId, EventId]] = field(default_factory=list)
    last_end: EventId = 0
    is_closed: bool = False
    is_ended: bool = False

    def connect(self, cursor: EventId | None) -> None:
        """A new connection begins, with this cursor; the last one came as far as that."""
        self._leave_out(cursor)
        self.is_ended = False
        if cursor is not None and self.floor is None:
            self.floor = cursor
        self.newest = -1 if cursor is None else cursor

    def _leave_out(self, cursor: EventId | None) -> None:
        if (self.is_ended or self.is_closed) and cursor is not None:
            self.left_out.append((self.last_end, cursor))

    def open(self, cursor: EventId) -> None:
        """The connection starts with new events."""
        self.floor = self.newest = cursor

    def take(self, event_id: EventId) -> None:
        """An event."""
        self.seen.add(event_id)
        self.is_closed = False
        self._advance(event_id)

    def end(self, end_id: EventId, *, is_closed: bool) -> None:
        """An end; `is_closed`: not by a DELETE."""
        self.floor = end_id if self.floor is None else self.floor
        self.last_end = end_id
        self.is_closed, self.is_ended = is_closed, True
        self._advance(end_id)

    def add_gap(self, reason: str, after: EventId, at: float) -> None:
        self.gaps.append(Gap(reason, self.newest, after, at))

    def _advance(self, event_id: EventId) -> None:
        self.newest = event_id
        for gap in self.gaps:
            gap.until = min(gap.until, event_id)

    def settle(self, cursor: EventId | None) -> None:
        """Forget checked events: from now on, only those after `cursor` are due."""
        self.floor = cursor if self.floor is not None else None
        self.gaps, self.left_out = [], []
        self.seen = {event_id for event_id in self.seen if cursor is None or event_id > cursor}

    def missing(self, ids: Mapping[EventId, Attempt], cursor: EventId | None) -> list[EventId]:
        """The ids, of those of the topic, that are due and were neither received nor covered."""
        if self.floor is None:
            return []
        covered = {event_id for gap in self.gaps for event_id in self._covered(gap, ids)}
        ranges = self.left_out_ranges(cursor)
        return [
            event_id
            for event_id in sorted(ids)
            if event_id > self.floor
            and event_id not in self.seen
            and event_id not in covered
            and not any(begin < event_id <= end for begin, end in ranges)
        ]

    def left_out_ranges(self, cursor: EventId | None) -> list[tuple[EventId, EventId]]:
        """The ranges of ids that connections passed without this topic, as far as `cursor`."""
        if (self.is_ended or self.is_closed) and cursor is not None:
            return [*self.left_out, (self.last_end, cursor)]
        return self.left_out

    def hidden_by(self, gap: Gap, ids: Mapping[EventId, Attempt]) -> list[EventId]:
        """The missing events around a gap."""
        return [
            event_id
            for event_id, attempt in ids.items()
            if gap.since < event_id < gap.until
            and event_id not in self.seen
            and attempt.sent_at <= gap.at
            and not any(begin < event_id <= end for begin, end in self.left_out)
        ]

    def _covered(self, gap: Gap, ids: Mapping[EventId, Attempt]) -> list[EventId]:
        hidden = self.hidden_by(gap, ids)
        return hidden if max(hidden, default=0) > gap.after else []
