"""What one subscriber received, over all its connections, and the check of it against the ledger (I1, I2).

Rules: values only, no I/O. A subscriber must receive every event of its topics after its first cursor, once and in order, or a true
`broker.gap` that covers it (see `account`). A fault that shows by itself is reported at once. Missing events are found by `missing`.

One lateness is documented: if the store lost events and another instance came first, `lost` may arrive after newer events. The
check accepts that for events that the store may have lost, and counts them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from broker.events import Event, EventId, format_id, parse_id
from tests.stores.chaos.account import Account, Gap
from tests.stores.chaos.ledger import Attempt, Ledger

REASONS = {"trimmed", "lost", "unknown-id"}
END_REASONS = {"closed", "deleted"}
IN_TRANSIT_SECONDS = 5.0
"""How long buffers may still deliver an event after the store has lost it."""
KEPT_LINES = 200


class Witness:
    """The record of one subscriber.

    Attributes:
        cursor: the text of the last id, which the next connection sends.
    """

    def __init__(self, name: str, topics: Sequence[str], ledger: Ledger) -> None:
        self.name = name
        self.topics = tuple(topics)
        self.cursor = ""
        self._ledger = ledger
        self._accounts = {topic: Account() for topic in topics}
        self._delivered: dict[str, EventId] = {}
        self._delivered_before: dict[str, EventId] = {}
        self._newest: EventId = -1
        self._is_resumed = False
        self._trace: list[str] = []
        self._late: set[EventId] = set()
        self._silent: set[EventId] = set()

    # Receive

    def connect(self, at: float) -> None:
        """A connection begins with the present cursor."""
        cursor = self._cursor_id
        for account in self._accounts.values():
            account.connect(cursor)
        self._is_resumed = cursor is not None
        self._newest = -1 if cursor is None else cursor
        self._note(at, f"connect {self.cursor}")

    def receive(self, event: Event, at: float) -> None:
        """The next event of the connection."""
        self._note(at, f"{event.type or ''} {event.id} {event.data[:80]}")
        if event.type is not None and event.type.startswith("broker."):
            self._control(event.type.removeprefix("broker."), json.loads(event.data), event.id, at)
            return
        event_id, data = self._next_id(event.id), event.data
        if data.startswith("{"):
            envelope = json.loads(data)
            data = envelope["data"]
            if envelope["id"] != event.id:
                self._fail(f"the envelope of {event.id} has the id {envelope['id']}")
        attempt = self._ledger.attempts.get(data)
        if attempt is None or attempt.topic not in self._accounts:
            self._fail(f"an event that was never published, or long ago: {event.id} {data[:80]}")
            return
        self._take(attempt, event_id, at)

    def _take(self, attempt: Attempt, event_id: EventId, at: float) -> None:
        account = self._accounts[attempt.topic]
        if account.is_ended:
            self._fail(f"{attempt.name} after the end of its topic on this connection")
        before = self._delivered.get(attempt.data, self._delivered_before.get(attempt.data))
        if before is not None:
            self._ledger.counts["delivered twice after a loss"] += 1
            if before == event_id or not self._ledger.may_have_lost(attempt.sent_at, at):
                self._fail(f"{attempt.name} twice: {format_id(before)} and {format_id(event_id)}")
        self._delivered[attempt.data] = event_id
        self._ledger.know(attempt, event_id, at)
        self._ledger.counts["delivered"] += 1
        account.take(event_id)

    def _control(self, kind: str, value: dict[str, object], text: str, at: float) -> None:
        topic = str(value.get("topic", ""))
        match kind:
            case "open":
                self._open(value["topics"], text)  # type: ignore[arg-type]
            case "gap":
                self._gap(topic, str(value["reason"]), parse_id(str(value["after"])), at)
            case "end":
                self._end(topic, str(value["reason"]), text)
            case _:
                self._fail(f"an unexpected broker.{kind}")

    def _open(self, topics: Sequence[str], text: str) -> None:
        if self._is_resumed:
            self._fail("broker.open on a connection that sent a cursor")
        if text:  # if the event has no id, the decoder names the connection's last one
            event_id = self._newest if parse_id(text) == self._newest else self._next_id(text)
            for topic in topics:
                self._accounts[topic].open(event_id)

    def _end(self, topic: str, reason: str, text: str) -> None:
        account = self._accounts[topic]
        # After a loss, an end that the cursor has passed is repeated without an id.
        is_repeated = not text and bool(account.gaps) and account.gaps[-1].after == self._cursor_id
        account.end(
            (self._cursor_id or 0) if is_repeated else self._next_id(text), is_closed=reason == "closed"
        )
        self._ledger.counts[f"ends: {reason}"] += 1
        if reason not in END_REASONS:
            self._fail(f"{topic} ended as {reason}")

    def _gap(self, topic: str, reason: str, after: EventId | None, at: float) -> None:
        self._ledger.counts[f"gaps: {reason}"] += 1
        if reason not in REASONS or topic not in self._accounts or after is None:
            self._fail(f"a malformed gap in {topic}: {reason}")
            return
        self._accounts[topic].add_gap(reason, after, at)
        if reason != "trimmed" and not self._ledger.may_have_lost(-math.inf, at):
            self._fail(f"a gap in {topic} as {reason}, but the store lost nothing")

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

    @property
    def _cursor_id(self) -> EventId | None:
        return parse_id(self.cursor) if self.cursor else None

    # Check

    def missing(self) -> list[str]:
        """One line for each event that was due by now and is missing without an excuse."""
        self._late, self._silent = set(), set()
        return [
            f"{self.name}: {ids[event_id].name} {format_id(event_id)} {self._explain(topic, event_id)}"
            for topic, account in self._accounts.items()
            for ids in [self._ledger.by_topic[topic]]
            for event_id in account.missing(ids, self._cursor_id)
            if not self._was_lost(account, event_id, ids[event_id])
        ]

    def has_received_end(self, topic: str, after: EventId) -> bool:
        """Whether it received an end of the topic that lies after this id, or was on a connection without the topic."""
        account = self._accounts[topic]
        return account.last_end > after or any(
            end > after for _, end in account.left_out_ranges(self._cursor_id)
        )

    def _was_lost(self, account: Account, event_id: EventId, attempt: Attempt) -> bool:
        """Whether a loss of the store excuses that the event is missing."""
        is_acknowledged = event_id in attempt.acknowledged
        for loss in self._ledger.losses:
            if attempt.sent_at > loss.ended_at or attempt.ids[event_id] > loss.ended_at + IN_TRANSIT_SECONDS:
                continue
            if is_acknowledged and loss.spares_acknowledged:
                continue
            if loss.is_silent or not is_acknowledged:
                self._silent.add(event_id)
                return True
            if any(gap.reason != "trimmed" and gap.at >= loss.began_at for gap in account.gaps):
                self._late.add(event_id)
                return True
        return False

    def check(self, stored: AbstractSet[EventId]) -> None:
        """Report untrue gaps, and excuses of the last call of `missing`, now that nothing is on its way.

        Args:
            stored: the ids of the events that the store has.
        """
        for event_id in (self._late | self._silent) & stored:
            self._fail(
                f"{self._ledger.data_of[event_id][:40]} {format_id(event_id)} is missing, and the store has it"
            )
        for topic, account in self._accounts.items():
            for gap in account.gaps:
                self._check_gap(topic, account, gap, stored)

    def _check_gap(self, topic: str, account: Account, gap: Gap, stored: AbstractSet[EventId]) -> None:
        ids = self._ledger.by_topic[topic]
        hidden = account.hidden_by(gap, ids)
        for event_id in stored & set(hidden):
            self._fail(f"a gap in {topic} hides {ids[event_id].name}, which the store has")
        if gap.reason != "trimmed" or self._ledger.may_have_lost(-math.inf, gap.at):
            return
        unresolved = self._ledger.unresolved(topic, gap.at)
        if not hidden and not unresolved:
            self._fail(f"a gap in {topic} after {format_id(gap.after)}, and nothing is missing")
        newest_first = sorted((one for one in ids if ids[one].sent_at <= gap.at), reverse=True)
        kept = newest_first[: max(0, self._ledger.retention_events - unresolved)]
        for attempt in (ids[event_id] for event_id in set(kept) & set(hidden)):
            if attempt.sent_at < gap.at and not self._ledger.may_have_deleted(topic, attempt.sent_at, gap.at):
                self._fail(f"a gap in {topic} hides {attempt.name}, which was still kept")

    def settle(self) -> None:
        """Forget checked events: from now on, only those after the cursor are due."""
        self._ledger.counts["lost, reported late"] += len(self._late)
        self._ledger.counts["lost, not reported"] += len(self._silent)
        self._late, self._silent = set(), set()
        for account in self._accounts.values():
            account.settle(self._cursor_id)
        self._delivered_before, self._delivered = self._delivered, {}
        del self._trace[:-KEPT_LINES]

    # Report

    def trace(self) -> list[str]:
        """The latest lines of its record."""
        return self._trace[-KEPT_LINES:]

    def _explain(self, topic: str, event_id: EventId) -> str:
        gaps = [f"{gap.reason} {format_id(gap.after)}" for gap in self._accounts[topic].gaps]
        state = (
            "acknowledged"
            if event_id in self._ledger.by_topic[topic][event_id].acknowledged
            else "not acknowledged"
        )
        return f"({state}; gaps: {gaps[-3:]}; cursor {self.cursor})"

    def _fail(self, what: str) -> None:
        self._ledger.fail(f"{self.name}: {what}")

    def _note(self, at: float, what: str) -> None:
        self._trace.append(f"{at:.3f} {what}")
        if len(self._trace) > 20 * KEPT_LINES:
            del self._trace[: 10 * KEPT_LINES]
