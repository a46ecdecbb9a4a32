"""The events published, acknowledged, deleted and lost, as the clients and the faults know them.

Rules: values and bookkeeping only, no I/O; every method takes the time. Ids are integers (`broker.events`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from broker.events import EventId, format_id

FOREVER = math.inf
UNDONE_SECONDS = 60.0
"""How long after a loss a topic may be closed again, because the store has lost its DELETE."""


@dataclass(slots=True)
class Attempt:
    """An event that a publisher tries to publish.

    Attributes:
        ids: the ids that it was acknowledged or delivered with, and when this was first known. More than one only if the store
            lost the first.
        acknowledged: those of `ids` that a publisher was answered with.
        ended_at: when its publisher stopped trying; infinite while it does.
    """

    topic: str
    data: str
    sent_at: float
    ids: dict[EventId, float] = field(default_factory=dict)
    acknowledged: set[EventId] = field(default_factory=set)
    ended_at: float = FOREVER

    @property
    def name(self) -> str:
        """Its data without the padding."""
        return self.data.rstrip(". ")


@dataclass(slots=True)
class Span:
    """A time from `began_at` until `ended_at`, infinite while it lasts."""

    began_at: float
    ended_at: float = FOREVER


@dataclass(slots=True)
class Loss(Span):
    """A fault that may make the store lose events.

    Attributes:
        is_silent: no instance survived that knew the lost events, so the loss can't be reported.
        spares_acknowledged: acknowledged events may not be lost.
    """

    is_silent: bool = False
    spares_acknowledged: bool = False


class Ledger:
    """The record of one run.

    Args:
        retention_events: how many events each topic keeps at least.

    Attributes:
        violations: what broke the contract.
        counts: figures for the report.
    """

    def __init__(self, retention_events: int) -> None:
        self.retention_events = retention_events
        self.attempts: dict[str, Attempt] = {}
        self.data_of: dict[EventId, str] = {}
        self.by_topic: defaultdict[str, dict[EventId, Attempt]] = defaultdict(dict)
        self.losses: list[Loss] = []
        self.deletions: defaultdict[str, list[Span]] = defaultdict(list)
        self.closings: defaultdict[str, list[Span]] = defaultdict(list)
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.highest_acknowledged: EventId = 0

    def fail(self, what: str) -> None:
        self.violations.append(what)

    def send(self, topic: str, data: str, at: float) -> Attempt:
        """A publisher begins to publish this event."""
        assert data not in self.attempts, "each event has data of its own"
        attempt = self.attempts[data] = Attempt(topic, data, at)
        return attempt

    def acknowledge(self, attempt: Attempt, event_id: EventId, at: float, *, above: EventId = 0) -> None:
        """The event was answered with this id, which must lie above those acknowledged before it was sent."""
        self.counts["acknowledged"] += not attempt.acknowledged
        if event_id <= above:
            self.fail(f"{attempt.name} has the id {format_id(event_id)}, at or below {format_id(above)}")
        if attempt.acknowledged and event_id not in attempt.acknowledged:
            self.counts["published again after a loss"] += 1
            if not self.may_have_lost(attempt.sent_at, at):
                self.fail(f"{attempt.name} was acknowledged with two ids, and nothing was lost")
        self.know(attempt, event_id, at)
        attempt.acknowledged.add(event_id)
        attempt.ended_at = min(attempt.ended_at, at)
        self.highest_acknowledged = max(self.highest_acknowledged, event_id)

    def refuse(self, attempt: Attempt, at: float) -> None:
        """The topic was closed, so the event wasn't published, and its publisher gives it up."""
        attempt.ended_at = at
        self.counts["refused by closed topics"] += 1
        may_be_closed = _any_within(self.closings[attempt.topic], attempt.sent_at, at)
        if not may_be_closed and not self.may_have_lost(attempt.sent_at - UNDONE_SECONDS, at):
            self.fail(f"{attempt.name} was refused, but {attempt.topic} was never closed")

    def know(self, attempt: Attempt, event_id: EventId, at: float) -> None:
        """The event was seen with this id."""
        other = self.data_of.setdefault(event_id, attempt.data)
        if other != attempt.data:
            self.fail(f"the id {format_id(event_id)} belongs to two events: {other[:40]} and {attempt.name}")
        attempt.ids.setdefault(event_id, at)
        self.by_topic[attempt.topic][event_id] = attempt

    def may_have_lost(self, since: float, until: float) -> bool:
        """Whether the store may have lost an event that it had for some of this time."""
        return _any_within(self.losses, since, until)

    def may_have_deleted(self, topic: str, since: float, until: float) -> bool:
        return _any_within(self.deletions[topic], since, until)

    def unresolved(self, topic: str, until: float) -> int:
        """How many events of a topic were sent by this time, and have no known id."""
        return sum(
            1
            for attempt in self.attempts.values()
            if attempt.topic == topic and not attempt.ids and attempt.sent_at <= until
        )

    def forget(self, before: float) -> None:
        """Drop events that were settled before this time: no subscriber may get them any more."""
        for data, attempt in list(self.attempts.items()):
            if attempt.ended_at < before and all(known < before for known in attempt.ids.values()):
                del self.attempts[data]
                for event_id in attempt.ids:
                    del self.data_of[event_id]
                    del self.by_topic[attempt.topic][event_id]


def _any_within(spans: list[Loss] | list[Span], since: float, until: float) -> bool:
    return any(span.began_at <= until and span.ended_at >= since for span in spans)
