"""The bounded log of one topic: the entries it still has, and whether a reader's cursor joins on to them.

Rules: a value in memory. It knows no store, no subscriber and no clock: times come in as ids or seconds.

Every entry names the topic's entry before it, `prev`. A reader at cursor X that meets entry e has missed nothing between
them if and only if `e.prev <= X`. If no entry is left after X, `last`, which outlives the entries, answers instead of e.
So a topic silent for longer than its retention has no gap, and a topic that was trimmed to nothing has one (design §2).

Three ids divide a log:
- New readers don't see entries up to `cleared_at`: the topic was deleted then.
- Entries after `trim_barrier` stay, however small the retention: they are on their way to subscribers. The hub moves the
  barrier on once they are written, and bounds how much can be on its way.
- At or before `complete_from`, only the store knows. The store in memory has complete logs; a replica of a shared
  store's log begins somewhere.

The log of a closed topic ends with its *end*, an entry after the last event. The end is not an event: it is neither
trimmed nor counted, and it stays as long as `last` is remembered. Nothing follows it, unless the topic is deleted or
the store goes back to before it; either opens the topic again.

If events are lost while subscribers read the log, a *gap* takes their place: an entry at the last missing id, without an event.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker import sse
from broker.events import EventId
from broker.log.entries import Entries
from broker.log.entry import ENTRY_OVERHEAD_BYTES, Entry
from broker.log.producers import ProducerSequences
from broker.log.timeline import Timeline
from broker.topics import Retention

_DROPPED = Entry(0, 0, b"")


class Log(Entries):
    """The entries of one topic, oldest first.

    Args:
        last: the first entry's `prev`: nothing of this topic is known at or before it.
        retention, timeline: how much to keep; when its events happened.

    Attributes:
        last: the id of the newest entry ever, or the `last` that the log began with.
        bytes: size of the frames held, which retention bounds.
        envelope_bytes: size of the envelopes held, which retention doesn't count.
        trim_barrier: entries after this id stay; None if nothing is on its way.
        complete_from: for a cursor at or after this id the log answers exactly as its store would.
        gap_entries: how many entries are only a gap.
        emptied: how often `empty` has dropped entries.
        accounted: the `footprint` that the table of all logs has counted.
        named: whether it ever had an entry, so that `last` is worth remembering.
        end: None while the topic is open.
        lost_at: the store may have lost events between `end` and this id; 0 if it hasn't.
        producers: None if no producer has given its name.
    """

    __slots__ = (
        "accounted",
        "bytes",
        "cleared_after",
        "cleared_at",
        "complete_from",
        "emptied",
        "end",
        "envelope_bytes",
        "gap_entries",
        "lost_at",
        "named",
        "producers",
        "retention",
        "timeline",
        "trim_barrier",
    )

    def __init__(self, last: EventId, retention: Retention, timeline: Timeline | None = None) -> None:
        super().__init__(last)
        self.retention = retention
        self.timeline = timeline or Timeline()
        self.bytes = self.envelope_bytes = self.accounted = self.gap_entries = self.emptied = 0
        self.trim_barrier: EventId | None = None
        self.complete_from = self.cleared_at = self.lost_at = 0
        self.cleared_after: EventId = 0  # the last event that the newest DELETE removed
        self.named = False
        self.end: Entry | None = None
        self.producers: ProducerSequences | None = None

    def append(self, event_id: EventId, frame: bytes) -> None:
        """Add the newest event; `event_id` is greater than `last`."""
        self._add(Entry(event_id, self.last, frame))

    def append_after(self, prev: EventId, event_id: EventId, frame: bytes) -> None:
        """Add the newest event of a replica; `prev` comes from the store."""
        self._add(Entry(event_id, prev, frame))

    def append_gap(self, gap_id: EventId, reason: str) -> None:
        """Add a gap: the events between `last` and `gap_id`, inclusive, are missing."""
        self._add(Entry(gap_id, gap_id, b"", gap=reason))
        self.gap_entries += 1

    def _add(self, entry: Entry) -> None:
        if self.end is not None:
            self.reopen()
        self._entries.append(entry)
        self.bytes += len(entry.frame)
        self.last, self.named = entry.id, True

    def prepend(self, entries: Sequence[Entry], complete_from: EventId) -> None:
        """Put `entries`, oldest first, in front: all between the new and the present `complete_from`."""
        self._entries[: self._start] = entries
        self._start = 0
        self.bytes += sum(len(entry.frame) for entry in entries)
        self.gap_entries += sum(not entry.frame for entry in entries)
        self.named = self.named or bool(entries)
        self.complete_from = complete_from

    def close(self, end_id: EventId, end_frame: bytes, prev: EventId = 0) -> None:
        """Add the end of the topic. For a replica, `prev` is the store's."""
        entry = Entry(end_id, max(prev, self.last), end_frame, end=True)
        self._add(entry)
        self.bytes -= len(end_frame)
        self.end = entry

    def lose(self, loss: EventId) -> None:
        """The store has lost events before `loss`: readers that come from before it get a gap there."""
        if self.end is None:
            self.append_gap(loss, "lost")
        else:
            self.lost_at = loss

    def reopen(self) -> None:
        """Forget the end: the store went back to before it, or has forgotten the topic."""
        if self.end is None:
            return
        self._entries.pop()
        loss, self.end, self.lost_at = self.lost_at, None, 0
        if loss > self.last:
            self.lose(loss)

    def clear(self, end_id: EventId, end_frame: bytes) -> None:
        """Hide all entries from new readers (DELETE). Subscribers still get the entries they lack, then this end.

        A cursor that had seen every event has no gap afterwards, whether or not it saw the end.
        """
        seen = self.last
        if self.end is not None:
            seen = max(self.end.prev, self.lost_at)
            self.bytes += len(self.end.frame)  # an entry like any other now, for subscribers that lack it
            self.end, self.lost_at = None, 0
        if seen != self.cleared_at:
            self.cleared_after = seen
        self._add(Entry(end_id, self.last, end_frame, end=True))
        self.cleared_at = end_id
        self.producers = None

    def trim(self, now: float) -> bool:
        """Drop, oldest first, what retention no longer covers at `now` (seconds since 1970), up to `trim_barrier`.

        The newest entry stays unless it is too old, however large it is. Returns whether anything was dropped.
        """
        entries, start = self._entries, self._start
        newest = len(entries) - (1 if self.end is None else 2)
        if newest < start:
            return False
        keep, first = self.retention, entries[start].id
        oldest = self.timeline.first_id(now - keep.seconds)
        if (
            first >= oldest
            and newest - start < keep.events
            and self.bytes <= keep.bytes
            and first > self.cleared_at
        ):
            return False  # as for most events
        drop, size = start, self.bytes
        while drop <= newest:
            entry = entries[drop]
            within = (newest - drop < keep.events and size <= keep.bytes) or drop == newest
            if within and entry.id >= oldest and entry.id > self.cleared_at:
                break
            if self.trim_barrier is not None and entry.id > self.trim_barrier:
                break
            size -= len(entry.frame)
            drop += 1
        if drop > start:
            self._drop_before(drop)
        return drop > start

    def empty(self) -> None:
        """Drop everything up to `trim_barrier`. `last` stays, so readers still get a gap."""
        barrier = self.last if self.trim_barrier is None else self.trim_barrier
        drop = min(self._stop, self._index_after(barrier))
        self.emptied += drop > self._start
        self._drop_before(drop)

    def _drop_before(self, index: int) -> None:
        entries = self._entries
        if index > self._start:
            self.complete_from = max(self.complete_from, entries[index - 1].id)
        for entry in entries[self._start : index]:
            self.bytes -= len(entry.frame)
            self.gap_entries -= not entry.frame
            self.envelope_bytes -= len(entry.enveloped or b"")
        entries[self._start : index] = [_DROPPED] * (index - self._start)
        self._start = index
        if index * 2 > len(entries):  # shortened only now and then: a drop costs the same at any length
            del entries[:index]
            self._start = 0

    # Reading

    def bytes_after(self, cursor: EventId) -> int:
        """About how many bytes of frames lie after `cursor`."""
        return self.bytes * (len(self._entries) - self._index_after(cursor)) // max(1, len(self))

    def enveloped(self, topic: str, entry: Entry) -> bytes:
        """The envelope form of an entry, encoded when first needed (I5)."""
        if entry.end or not entry.frame:
            return entry.frame
        if entry.enveloped is None:
            entry.enveloped = sse.envelope(topic, entry.frame, entry.id, self.timeline.seconds(entry.id))
            self.envelope_bytes += len(entry.enveloped)
        return entry.enveloped

    def reaches(self, cursor: EventId) -> bool:
        """Whether this log knows, as its store would, all entries after `cursor`."""
        return max(cursor, self.cleared_at) >= self.complete_from

    def has_gap(self, cursor: EventId) -> bool:
        """Whether a new reader at `cursor` has missed something: an event after it is dropped, or may have existed."""
        is_removed = cursor < min(self.cleared_at, self.cleared_after)
        return is_removed or self.has_moved_past(max(cursor, self.cleared_at))

    def has_moved_past(self, cursor: EventId) -> bool:
        """`has_gap` for a subscriber, from which a DELETE hides nothing. A gap in the log doesn't count: it reaches readers in its place."""
        index = self._index_after(cursor)
        if index == len(self._entries):
            return self.last > cursor
        entry = self._entries[index]
        return entry.prev > cursor and entry.gap is None

    def start_after(self, cursor: EventId) -> EventId:
        """`cursor`, or the first one after it from which no event is missing."""
        index = self._index_after(cursor := max(cursor, self.cleared_at))
        if index == len(self._entries):
            return max(cursor, self.last)
        entry = self._entries[index]
        return cursor if entry.gap is not None else max(cursor, entry.prev)

    def start_before(self, count: int) -> EventId:
        """The cursor that the newest `count` events follow, or all of them if there are fewer."""
        first, stop = self._index_after(self.cleared_at), self._stop
        index = max(first, stop - count)
        if self.gap_entries:
            events = [at for at in range(first, stop) if self._entries[at].frame][-count:]
            index = events[0] if events else stop
        return self._entries[index].prev if index < len(self._entries) else self.last

    def visible(self) -> tuple[Entry | None, Entry | None, int, int]:
        """The events that a new reader sees: first, last, number and bytes."""
        first, stop = self._index_after(self.cleared_at), self._stop
        if stop <= first:
            return None, None, 0, 0
        hidden = sum(len(entry.frame) for entry in self._entries[self._start : first])
        return self._entries[first], self._entries[stop - 1], stop - first, self.bytes - hidden

    @property
    def footprint(self) -> int:
        """Estimated memory of the entries in bytes, without the end."""
        entries = len(self._entries) - self._start - (self.end is not None)
        return self.bytes + self.envelope_bytes + entries * ENTRY_OVERHEAD_BYTES

    @property
    def _stop(self) -> int:
        """The index after the last entry that is not the end."""
        return len(self._entries) - (self.end is not None)
