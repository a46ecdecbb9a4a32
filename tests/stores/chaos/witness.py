"""What one subscriber was sent, over all its connections, and the check of it against the ledger (I1, I2).

Rules: values only, no I/O. A subscriber must get every event of its topics after its first cursor, once and in order, or a true
`broker.gap` that covers it. What is wrong by itself is reported at once; what is missing, when `missing` is asked for.

Coverage: a gap covers the missing events between the topic's events before and after it on the same connection, if the last of
them lies after the gap's `after`. So a gap that is told after the subscriber has crossed them all covers nothing: a client that
was cut before it would never have known. One exception is documented: if the store lost events and another
instance came first, `lost` may come late. Late ones are counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from broker.events import Event, EventId, format_id, parse_id
from tests.stores.chaos.ledger import Attempt, Ledger

REASONS = {"trimmed", "lost", "unknown-id"}
END_REASONS = {"closed", "deleted"}
IN_TRANSIT_SECONDS = 5.0
"""For how long an event that the store has lost may still arrive from buffers."""


@dataclass(slots=True)
class Gap:
    """A gap that was told, between the ids `since` and `until` (both exclusive): those of the topic's events around it."""

    reason: str
    since: EventId
    after: EventId
    at: float
    until: float = math.inf


@dataclass(slots=True)
class _Account:
    """What was sent of one topic. `floor` is None before the first cursor.

    Attributes:
        newest: the id of the last event or end, or the cursor of the connection.
        crossed: ranges of ids that a connection passed after it was told the topic's end.
        ended: the id of the end that this connection was told, or an earlier one: then the topic may be left out of this one.
        last_end: the newest end that any connection was told.
        is_closed: whether that end was the latest of the topic, and not by a DELETE.
        is_ended_here: whether this connection was told an end.
    """

    floor: EventId | None = None
    newest: EventId = 0
    seen: set[EventId] = field(default_factory=set)
    gaps: list[Gap] = field(default_factory=list)
    crossed: list[tuple[EventId, EventId]] = field(default_factory=list)
    ended: EventId | None = None
    last_end: EventId = 0
    is_closed: bool = False
    is_ended_here: bool = False


class Witness:
    """The record of one subscriber.

    Attributes:
        cursor: the text of the last id; what it sends to go on.
    """

    def __init__(self, name: str, topics: Sequence[str], ledger: Ledger) -> None:
        self.name = name
        self.topics = tuple(topics)
        self.cursor = ""
        self._ledger = ledger
        self._accounts = {topic: _Account() for topic in topics}
        self._delivered: dict[str, tuple[EventId, float]] = {}
        self._newest: EventId = -1
        self._sent_cursor = ""
        self._trace: list[str] = []
        self._told_late: set[EventId] = set()
        self._untold: set[EventId] = set()

    def connect(self, at: float) -> None:
        """A connection begins with the present cursor."""
        for account in self._accounts.values():
            if account.ended is not None:
                account.crossed.append((account.ended, self._cursor_id))
            account.ended = account.last_end if account.is_closed else None
            account.is_ended_here = False
            if self.cursor and account.floor is None:
                account.floor = self._cursor_id
            account.newest = self._cursor_id
        self._newest = self._cursor_id
        self._sent_cursor = self.cursor
        self._note(at, f"connect {self.cursor}")

    def hear(self, event: Event, at: float) -> None:
        """The next event of the connection."""
        self._note(at, f"{event.type or ''} {event.id} {event.data[:80]}")
        if event.type is not None and event.type.startswith("broker."):
            self._hear_control(event.type.removeprefix("broker."), json.loads(event.data), event.id, at)
            return
        event_id, data = self._next_id(event.id), event.data
        if event.type is None and event.data.startswith("{"):  # the envelope form
            envelope = json.loads(event.data)
            data = envelope["data"]
            if envelope["id"] != event.id:
                self._fail(f"the envelope of {event.id} says {envelope['id']}")
        attempt = self._ledger.attempts.get(data)
        if attempt is None or attempt.topic not in self._accounts:
            self._fail(f"it was never published, or is long settled: {event.id} {data[:80]}")
            return
        self._take(attempt, event_id, at)

    def _take(self, attempt: Attempt, event_id: EventId, at: float) -> None:
        account = self._accounts[attempt.topic]
        if account.is_ended_here:
            self._fail(f"{attempt.data[:40]} after the end of its topic on this connection")
        before = self._delivered.get(attempt.data)
        if before is not None:
            self._ledger.counts["delivered twice after a loss"] += 1
            if before[0] == event_id or not self._ledger.may_have_lost(attempt.sent_at, at):
                self._fail(f"{attempt.data[:40]} twice: {format_id(before[0])} and {format_id(event_id)}")
        self._delivered[attempt.data] = (event_id, at)
        self._ledger.know(attempt, event_id, at)
        self._ledger.counts["delivered"] += 1
        account.seen.add(event_id)
        account.newest = event_id
        account.ended, account.is_closed = None, False
        self._settle_gaps(account, event_id)

    @staticmethod
    def _settle_gaps(account: _Account, event_id: EventId) -> None:
        for gap in account.gaps:
            if gap.until == math.inf:
                gap.until = event_id

    def _hear_control(self, kind: str, value: dict[str, object], text: str, at: float) -> None:
        topic = str(value.get("topic", ""))
        match kind:
            case "open":
                if self._sent_cursor:
                    self._fail("opened as new in spite of its cursor")
                if text:
                    event_id = self._next_id(text)
                    for opened in value["topics"]:  # type: ignore[attr-defined]
                        self._accounts[opened].floor = self._accounts[opened].newest = event_id
            case "gap":
                self._gap(topic, value, at)
            case "end":
                account = self._accounts[topic]
                is_retold = not text and any(gap.after == self._cursor_id for gap in account.gaps[-1:])
                event_id = self._cursor_id if is_retold else self._next_id(text)
                account.floor = event_id if account.floor is None else account.floor
                account.ended = account.last_end = account.newest = event_id
                account.is_closed, account.is_ended_here = value["reason"] == "closed", True
                self._settle_gaps(account, event_id)
                self._ledger.counts[f"ends told: {value['reason']}"] += 1
                if value["reason"] not in END_REASONS:
                    self._fail(f"{topic} ended as {value['reason']}")
            case _:
                self._fail(f"an unexpected broker.{kind}")

    def _gap(self, topic: str, value: dict[str, object], at: float) -> None:
        reason, after = str(value["reason"]), parse_id(str(value["after"]))
        self._ledger.counts[f"gaps told: {reason}"] += 1
        if reason not in REASONS or topic not in self._accounts or after is None:
            self._fail(f"a malformed gap: {value}")
            return
        account = self._accounts[topic]
        account.gaps.append(Gap(reason, account.newest, after, at))
        if reason != "trimmed" and not self._ledger.may_have_lost(-math.inf, at):
            self._fail(f"a gap in {topic} as {reason}, but the store lost nothing")

    def missing(self) -> list[str]:
        """What it should have been sent by now, and was not, in words."""
        return [
            f"{self.name}: {attempt.data[:40]} {format_id(event_id)} {self._why(attempt, event_id)}"
            for topic in self.topics
            for event_id, attempt in self._missing_of(topic)
        ]

    def has_heard_end(self, topic: str, after: EventId) -> bool:
        """Whether it was told an end of the topic that lies after this id."""
        return self._accounts[topic].last_end > after

    def check_gaps(self) -> None:
        """Report gaps that hide what could have been delivered, or that hide nothing. To be called at a time of quiet."""
        for topic, account in self._accounts.items():
            for gap in account.gaps:
                self._check_gap(topic, account, gap)

    def settle(self, before: float) -> None:
        """Forget what is settled: everything up to now was checked, so only what follows the cursor is checked from now on."""
        self._ledger.counts["lost, told late"] += len(self._told_late)
        self._ledger.counts["lost, told to nobody"] += len(self._untold)
        self._told_late, self._untold = set(), set()
        for account in self._accounts.values():
            account.floor = self._cursor_id if account.floor is not None else None
            account.gaps, account.crossed = [], []
            account.seen = {event_id for event_id in account.seen if event_id > self._cursor_id}
        self._delivered = {data: (one, at) for data, (one, at) in self._delivered.items() if at >= before}
        self._trace = self._trace[-200:]

    def trace(self) -> list[str]:
        """The latest of what it did and was sent, for a report."""
        return self._trace[-200:]

    @property
    def _cursor_id(self) -> EventId:
        return (parse_id(self.cursor) or 0) if self.cursor else -1

    def _next_id(self, text: str) -> EventId:
        event_id = parse_id(text)
        if event_id is None:
            self._fail(f"no id: {text!r}")
            return self._newest
        if event_id <= self._newest:
            self._fail(f"{text} does not lie after {format_id(self._newest)} (I1)")
        self._newest = event_id
        self.cursor = text
        return event_id

    def _missing_of(self, topic: str) -> Iterator[tuple[EventId, Attempt]]:
        account = self._accounts[topic]
        floor = account.floor
        if floor is None:
            return
        ids = self._ledger.by_topic[topic]
        covered = {event_id for gap in account.gaps for event_id in self._covered(topic, gap)}
        for event_id in sorted(ids):
            if event_id <= floor or event_id in account.seen or event_id in covered:
                continue
            if not self._is_excused(account, event_id, ids[event_id]):
                yield event_id, ids[event_id]

    def _hidden(self, topic: str, gap: Gap) -> list[EventId]:
        """The missing events around a gap."""
        seen, ids = self._accounts[topic].seen, self._ledger.by_topic[topic]
        return [
            event_id
            for event_id in ids
            if gap.since < event_id < gap.until and event_id not in seen and ids[event_id].sent_at <= gap.at
        ]

    def _covered(self, topic: str, gap: Gap) -> list[EventId]:
        hidden = self._hidden(topic, gap)
        return hidden if max(hidden, default=0) > gap.after else []

    def _is_excused(self, account: _Account, event_id: EventId, attempt: Attempt) -> bool:
        if account.ended is not None and account.ended < event_id <= self._cursor_id:
            return True
        if any(begin < event_id <= end for begin, end in account.crossed):
            return True
        return self._was_lost(account, event_id, attempt)

    def _was_lost(self, account: _Account, event_id: EventId, attempt: Attempt) -> bool:
        """Whether a loss excuses that it is missing: told late, known to nobody, or never acknowledged."""
        is_acknowledged = event_id in attempt.acknowledged
        for loss in self._ledger.losses:
            if attempt.sent_at > loss.ended_at or attempt.ids[event_id] > loss.ended_at + IN_TRANSIT_SECONDS:
                continue
            if is_acknowledged and loss.spares_acknowledged:
                continue
            if loss.is_silent or not is_acknowledged:
                self._untold |= {event_id} if is_acknowledged else set()
                return True
            if any(gap.reason != "trimmed" and gap.at >= loss.began_at for gap in account.gaps):
                self._told_late.add(event_id)
                return True
        return False

    def _check_gap(self, topic: str, account: _Account, gap: Gap) -> None:
        ids = self._ledger.by_topic[topic]
        hidden = self._hidden(topic, gap)
        if gap.reason != "trimmed" or self._ledger.may_have_lost(-math.inf, gap.at):
            return
        if not hidden and not self._ledger.unresolved(topic, gap.at):
            self._fail(f"a gap in {topic} after {format_id(gap.after)}, and nothing is missing")
        newest_first = sorted((one for one in ids if ids[one].sent_at <= gap.at), reverse=True)
        kept = newest_first[: max(0, self._ledger.retention_events - self._ledger.unresolved(topic, gap.at))]
        for event_id in set(kept) & set(hidden):
            if ids[event_id].sent_at < gap.at and not self._ledger.may_have_deleted(
                topic, ids[event_id].sent_at, gap.at
            ):
                self._fail(f"a gap in {topic} hides {ids[event_id].data}, which was still kept")

    def _why(self, attempt: Attempt, event_id: EventId) -> str:
        gaps = [f"{gap.reason} {format_id(gap.after)}" for gap in self._accounts[attempt.topic].gaps]
        state = "acknowledged" if event_id in attempt.acknowledged else "not acknowledged"
        return f"({state}; gaps told: {gaps[-3:]}; cursor {self.cursor})"

    def _fail(self, what: str) -> None:
        self._ledger.fail(f"{self.name}: {what}")

    def _note(self, at: float, what: str) -> None:
        self._trace.append(f"{at:.3f} {what}")
        if len(self._trace) > 4000:
            del self._trace[:2000]
