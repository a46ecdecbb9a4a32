"""This instance's replica of one shared topic's log, and how far it can be relied on.

Rules: state only; every method is a `def`, and none asks the server (`catch_up` does). No other module assigns its fields.

The phases:

    EMPTY     Nothing was read yet.
    FILLING   Read at least once. Subscribers don't have the log yet.
    LIVE      Each update received on the topic's channel follows the one before without a hole.
    STALE     An update was missed, or may have been. Subscribers keep the log; `Replicas.complete_to` stands still.

In all phases but LIVE, updates are buffered while the store is read on from `tail`, page by page; `go_live` applies them.

A loss in the store (`StoreHistory.losses`) becomes an entry without an event: a gap at its place in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from operator import attrgetter
from typing import Protocol

from broker import sse
from broker.events import EventId
from broker.log.entry import Entry, with_gaps
from broker.log.log import Log
from broker.stores.redis.formats import StoreHistory, TopicEnd, TopicPage, TopicUpdate
from broker.stores.redis.watermark import Watermark
from broker.topics import Retention

BUFFER_BYTES = 4 << 20

_entry_id = attrgetter("id")


class Phase(Enum):
    """How complete a replica is; described in the module."""

    EMPTY = auto()
    FILLING = auto()
    LIVE = auto()
    STALE = auto()


TRANSITIONS = {
    Phase.EMPTY: (Phase.FILLING,),  # begin
    Phase.FILLING: (Phase.LIVE,),  # go_live
    Phase.LIVE: (Phase.STALE,),  # interrupt
    Phase.STALE: (Phase.LIVE,),  # go_live
}


class ReplicaOwner(Protocol):
    """What a replica needs of the other replicas."""

    @property
    def history(self) -> StoreHistory: ...

    @property
    def complete_to(self) -> Watermark: ...

    def grew(self, replica: TopicReplica, size: int, published_ms: int = 0) -> None:
        """The replica's log has grown by `size` bytes of frames, published then; 0: unknown."""

    def set_retention(self, replica: TopicReplica, retention: Retention | None) -> None:
        """Let the log keep what the topic's first publisher asked for; None: what the settings say."""


@dataclass(slots=True, eq=False)
class TopicReplica:
    """One topic's replica.

    Attributes:
        tail: the topic's last id that was read or received. In the log, losses may follow it.
        confirmed_to: the topic has nothing between `tail` and this id: the store was read up to here, or has said so.
        losses_applied_to: losses up to this id are in the log, or lie before its beginning.
    """

    topic: str
    log: Log
    _owner: ReplicaOwner
    phase: Phase = Phase.EMPTY
    is_readable: bool = False  # by subscribers
    tail: EventId = 0
    confirmed_to: EventId = 0
    losses_applied_to: EventId = 0
    _buffer: list[TopicUpdate] | None = field(default_factory=list)  # None: it was too much
    _buffer_bytes: int = 0

    @property
    def contiguous_to(self) -> EventId:
        """No update up to this id is missing."""
        complete_to = self._owner.complete_to.value if self.is_readable else 0
        return max(self.tail, self.confirmed_to, complete_to)

    def _move(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase]
        self.phase = phase
        self.is_readable = phase in (Phase.LIVE, Phase.STALE)

    # Updates, as they are received

    def joins(self, update: TopicUpdate) -> bool:
        """Whether nothing was missed before `update`, in the topic or in the store's history."""
        is_contiguous = update.prev <= self.tail or update.prev <= self.contiguous_to
        return is_contiguous and update.epoch == self._owner.history.epoch

    def append(self, update: TopicUpdate) -> None:
        """Append an update that `joins`, without the entries that the log has."""
        if update.last <= self.tail:
            return
        if not update.entries:
            if update.reason == "deleted":
                self._clear(update.last)
            else:
                self._close(TopicEnd(update.last, update.prev, update.reason))
            return
        if update.retention is not None:
            self.log.retention = update.retention
        log, prev, tail = self.log, update.prev, self.tail
        for event_id, frame in update.entries:
            if event_id > tail:
                log.append_after(prev, event_id, frame)
            prev = event_id
        self.tail = prev
        self._owner.grew(self, update.size, update.published_ms)

    def buffer(self, update: TopicUpdate) -> None:
        if self._buffer is None:
            return
        self._buffer_bytes += update.size
        if self._buffer_bytes > BUFFER_BYTES:
            self._buffer = None
        else:
            self._buffer.append(update)

    def clear_buffer(self) -> None:
        """Drop the buffered updates: the next read of the store returns them."""
        self._buffer, self._buffer_bytes = [], 0

    def interrupt(self, update: TopicUpdate | None = None) -> None:
        """Updates were missed, or may have been; `update` was received and doesn't join."""
        if update is not None and update.epoch != self._owner.history.epoch:
            # The store's history has changed, but nothing was published to the topic since `prev`.
            self.confirmed_to = max(self.confirmed_to, update.prev)
        self._move(Phase.STALE)
        self.clear_buffer()

    # Pages, as they are read

    def begin(self, page: TopicPage, after: EventId, history: StoreHistory) -> None:
        """Prepare the log for its first page: the newest entries after `after`.

        `history` is the store's when the page was read.
        """
        self._move(Phase.FILLING)
        log = self.log
        log.cleared_at, log.cleared_after = page.cleared_at, page.cleared_after
        if page.last is None:
            log.last = self.tail = page.forgotten_to
            # The log has the topic's whole history, so all losses too.
            self.losses_applied_to = history.born
            return
        newest = _last_event(page, page.last)
        if page.more:
            after = page.entries[0][1]
        elif not page.entries:
            after = min(after, newest)  # there is nothing between the two, and the end comes after `newest`
        self.losses_applied_to = max(after, history.born)
        log.named = True
        log.complete_from = after
        self.tail = max(after, page.cleared_at)
        log.last = page.entries[0][1] if page.entries else newest

    def apply_page(self, page: TopicPage) -> None:
        """Append a page that begins at `tail` or before."""
        footprint, last_entry = self.log.footprint, self.log.last
        self._owner.set_retention(self, page.retention)
        self._reopen_for(page)
        self._apply_clear(page)
        self._append_entries(page.entries)
        if page.last is None:
            if (
                page.forgotten_to > self.contiguous_to
            ):  # it may have had entries, and the record with them has expired
                self._skip_to(page.forgotten_to)
        elif not page.more:
            self._skip_to(_last_event(page, page.last))
            if page.end is not None and self.log.end is None:
                self._close(page.end)
        growth = self.log.footprint - footprint
        if growth or self.log.last != last_entry:
            self._owner.grew(self, max(0, growth))

    def _reopen_for(self, page: TopicPage) -> None:
        """Forget an end that the store no longer has."""
        end = self.log.end
        if end is not None and (page.end is None or page.end.id > end.id):
            self.log.reopen()

    def _apply_clear(self, page: TopicPage) -> None:
        """Apply a DELETE that happened after `tail`."""
        log = self.log
        if page.cleared_at <= self.tail:
            return
        if not self.is_readable:  # so no subscriber needs a gap
            log.cleared_at, log.cleared_after = page.cleared_at, page.cleared_after
            self.tail = page.cleared_at
            log.last = max(log.last, self.tail)
            return
        self.apply_losses(page.cleared_at)
        if page.cleared_after > max(self.tail, log.last):
            log.append_gap(page.cleared_after, "trimmed")
        self._clear(page.cleared_at)

    def _append_entries(self, entries: Sequence[tuple[EventId, EventId, bytes]]) -> None:
        for event_id, prev, frame in entries:
            if event_id <= self.tail:
                continue
            self.apply_losses(event_id)
            if prev > max(self.contiguous_to, self.log.last):
                self.log.append_gap(prev, "trimmed")
            self.log.append_after(prev, event_id, frame)
            self.tail = event_id

    def _skip_to(self, last: EventId) -> None:
        """The topic's last event is `last`; if the log lacks it, it was trimmed."""
        self.apply_losses(last)
        if last > self.tail:
            if last > self.log.last:
                self.log.append_gap(last, "trimmed")
            self.tail = last

    def go_live(self, last: EventId) -> bool:
        """Apply the buffer; `last` is the store's last id as of the last page. False: the store must be read again."""
        if self._buffer is None:
            return False
        history = self._owner.history
        self.apply_losses()
        self.confirmed_to = max(self.confirmed_to, last)
        buffer = self._buffer
        self.clear_buffer()
        for update in buffer:
            if update.last <= self.tail:
                continue
            if update.epoch != history.epoch or update.prev > max(self.tail, last):
                return False
            self.append(update)
        self._move(Phase.LIVE)
        return True

    def prepend(self, entries: Sequence[tuple[EventId, EventId, bytes]], complete_from: EventId) -> None:
        """Put older entries, `(id, prev, frame)`, in front of the log, with the losses among them."""
        history, log = self._owner.history, self.log
        losses = [loss for loss in history.losses if complete_from < loss <= log.complete_from]
        made = [Entry(loss, loss, b"", gap="lost") for loss in losses if loss > history.born]
        made += [Entry(event_id, prev, frame) for event_id, prev, frame in entries]
        made.sort(key=_entry_id)  # stable: a loss comes before the event at its id
        first = next(log.after(0), None)
        joint = log.last if first is None else 0 if first.gap is not None else first.prev
        log.prepend(with_gaps(made, joint, history.losses), complete_from)

    # What a log may get besides events

    def apply_losses(self, upto: EventId | None = None) -> None:
        """Add the store's losses up to `upto`, or all, that the log lacks."""
        for loss in self._owner.history.losses:
            if self.losses_applied_to < loss and (upto is None or loss <= upto):
                self.losses_applied_to = loss
                if loss > self.log.last:
                    self.log.lose(loss)
                    self._owner.grew(self, 0)

    def _close(self, end: TopicEnd) -> None:
        """Append the end; after the loss, if the store went back to an end that the log has passed."""
        log = self.log
        self.apply_losses(end.id if end.id > log.last else None)
        end_id = max(end.id, log.last)
        frame = sse.end(self.topic, end.reason, end_id)
        log.close(end_id, frame, end.prev)
        self.tail = max(self.tail, end.id)
        self._owner.grew(self, len(frame))

    def _clear(self, end: EventId) -> None:
        frame = sse.end(self.topic, "deleted", end)
        self.log.clear(end, frame)
        self._owner.set_retention(self, None)
        self.tail = end
        self._owner.grew(self, len(frame))


def _last_event(page: TopicPage, last: EventId) -> EventId:
    """The id of the topic's last event."""
    return last if page.end is None else page.end.prev
