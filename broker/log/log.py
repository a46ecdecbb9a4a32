"""The bounded log of one topic: what it still has, and whether a reader's cursor joins on to it.

Rules: a value in memory; knows no store, no subscriber, no clock (times come in as ids or seconds).

Every entry names the topic's entry before it, `prev`. A reader at cursor X that meets entry e has missed nothing
between them if and only if `e.prev <= X`; where no entry is left after X, the same is asked of `last`, which outlives
the entries. So a topic may be silent for longer than its retention without a gap, and a topic that was trimmed to
nothing still tells of one (design §2).

Three lines are drawn through a log. Entries up to `cleared_at` are gone for every new reader (DELETE). Entries after
`hold` are not trimmed, however small the retention, for they are on their way to subscribers; the hub moves `hold` on
once they are written, and bounds how much can be on its way. Of what lies at or before `complete_from` only the store can tell:
a log is a store's whole truth (the one in memory), or a copy that begins somewhere.

A topic that was closed ends with its *end*: an entry behind the last event, which is none itself. It is neither trimmed nor
counted, and stays as long as `last` is remembered. Nothing follows it, unless the topic is cleared, or its store went back:
then the topic is open again.

A hole that came about while readers were at it is an entry's `gap`: who crosses it is told in place, so nobody else has
to tell of it.

One entry of a topic's log: an event, an end, or nothing but a gap.

Rules: a value; what it means to a reader is its log's business.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

from broker import sse
from broker.events import EventId, id_at
from broker.log.producers import ProducerSequences
from broker.topics import Retention


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


ENTRY_OVERHEAD_BYTES = 200  # what Python needs for an entry beside its frame, measured

_entry_id = attrgetter("id")


_DROPPED = Entry(0, 0, b"")


class Log:
    """The entries of one topic, oldest first.

    Args:
        last: what `prev` of the first entry is to be: nothing of this topic is known at or before it.
        retention: how much to keep.

    Attributes:
        last: id of the newest entry there ever was, or the `last` it began with.
        bytes: size of all frames held: what retention counts.
        envelope_bytes: size of all envelopes held; readers made them, so they take nothing from retention.
        hold: entries after this id stay; None holds nothing.
        complete_from: for a cursor at or after this id the log answers exactly as its store would.
        gap_entries: how many entries are nothing but a gap.
        accounted: how much of `footprint` the owner of all logs has counted.
        named: whether an entry was ever appended, so that `last` is worth remembering.
        end: the end of a topic that was closed; None while it is open.
        lost_at: behind `end`, up to this id, the store may have lost that the topic went on; 0 where it hasn't.
        producers: what the topic's producers have published so far; None where none has said who it is.
    """

    __slots__ = (
        "_entries",
        "_start",
        "accounted",
        "bytes",
        "cleared_after",
        "cleared_at",
        "complete_from",
        "end",
        "envelope_bytes",
        "gap_entries",
        "hold",
        "last",
        "lost_at",
        "named",
        "producers",
        "retention",
    )

    def __init__(self, last: EventId, retention: Retention) -> None:
        self.last = last
        self.retention = retention
        self.bytes = 0
        self.envelope_bytes = 0
        self.accounted = 0
        self.gap_entries = 0
        self.hold: EventId | None = None
        self.complete_from: EventId = 0
        self.named = False
        self.cleared_after: EventId = 0
        self.cleared_at: EventId = 0
        self.end: Entry | None = None
        self.lost_at: EventId = 0
        self.producers: ProducerSequences | None = None
        self._entries: list[Entry] = []
        self._start = 0

    def __len__(self) -> int:
        """How many entries are held, those on their way included."""
        return len(self._entries) - self._start

    def append(self, event_id: EventId, frame: bytes) -> None:
        """Add the newest entry; `event_id` is greater than `last`."""
        self._add(Entry(event_id, self.last, frame))

    def append_after(
        self, prev: EventId, event_id: EventId, frame: bytes, gap: str | None = None, *, end: bool = False
    ) -> None:
        """The same for a copy of a store's log, which says what came before; see `Entry.gap`."""
        self._add(Entry(event_id, prev, frame, end=end, gap=gap))

    def prepend(self, entries: Sequence[Entry], complete_from: EventId) -> None:
        """Put entries in front: those between `complete_from` and the present reach, oldest first."""
        self._entries[: self._start] = entries
        self._start = 0
        self.bytes += sum(len(entry.frame) for entry in entries)
        self.gap_entries += sum(not entry.frame for entry in entries)
        self.named = self.named or bool(entries)
        self.complete_from = complete_from

    def reaches(self, cursor: EventId) -> bool:
        """Whether this log can tell what lies after `cursor`, as its store would."""
        return max(cursor, self.cleared_at) >= self.complete_from

    def close(self, end_id: EventId, end_frame: bytes, prev: EventId = 0) -> None:
        """Add the end of the topic; for a copy, `prev` is what came before it in the store."""
        entry = Entry(end_id, max(prev, self.last), end_frame, end=True)
        self._add(entry)
        self.bytes -= len(end_frame)
        self.end = entry

    def lose(self, loss: EventId) -> None:
        """A store has lost what lay before `loss`, of which nobody can tell: who comes from before it is told in its place."""
        if self.end is None:
            self._add(Entry(loss, loss, b"", gap="lost"))
        else:
            self.lost_at = loss

    def reopen(self) -> None:
        """Forget the end: the store that told of it went back behind it, or has forgotten the topic."""
        if self.end is None:
            return
        self._entries.pop()
        loss, self.end, self.lost_at = self.lost_at, None, 0
        if loss > self.last:
            self.lose(loss)

    def _add(self, entry: Entry) -> None:
        self.reopen()
        self._entries.append(entry)
        self.bytes += len(entry.frame)
        self.gap_entries += not entry.frame
        self.last = entry.id
        self.named = True

    def clear(self, end_id: EventId, end_frame: bytes) -> None:
        """Empty the log for every reader to come; those subscribed are still written what they lack, then the end.

        A cursor that had seen every event before has no gap afterwards, whether or not it saw the end.
        """
        seen = self.last
        if (
            self.end is not None
        ):  # from now on an entry like any other, for those who are still to be written it
            seen = max(self.end.prev, self.lost_at)
            self.bytes += len(self.end.frame)
            self.end, self.lost_at = None, 0
        if seen != self.cleared_at:
            self.cleared_after = seen
        self._add(Entry(end_id, self.last, end_frame, end=True))
        self.cleared_at = end_id
        self.producers = None

    def trim(self, now: float) -> None:
        """Drop, oldest first, what retention no longer covers at `now` (seconds since 1970) and nothing holds.

        The newest entry stays unless it is too old, however large it is.
        """
        newest = self._stop - 1
        if newest < self._start:
            return
        keep = self.retention
        oldest = id_at(now - keep.seconds)
        drop = self._start
        size = self.bytes
        while drop <= newest:
            entry = self._entries[drop]
            within = (newest - drop < keep.events and size <= keep.bytes) or drop == newest
            if within and entry.id >= oldest and entry.id > self.cleared_at:
                break
            if self.hold is not None and entry.id > self.hold:
                break
            size -= len(entry.frame)
            drop += 1
        self._drop_before(drop)

    def empty(self) -> None:
        """Drop everything that nothing holds; `last` stays, so that the gap is told."""
        self._drop_before(min(self._stop, self._index_after(self.last if self.hold is None else self.hold)))

    @property
    def _stop(self) -> int:
        """The index behind the last entry that is not the end of the topic."""
        return len(self._entries) - (self.end is not None)

    def _drop_before(self, index: int) -> None:
        entries = self._entries
        if index > self._start:
            self.complete_from = max(self.complete_from, entries[index - 1].id)
        for dropped in range(self._start, index):
            entry = entries[dropped]
            self.bytes -= len(entry.frame)
            self.gap_entries -= not entry.frame
            self.envelope_bytes -= len(entry.enveloped or b"")
            entries[dropped] = _DROPPED
        self._start = index
        if index * 2 > len(
            entries
        ):  # shorten the list now and then, so that dropping costs the same at any length
            del entries[:index]
            self._start = 0

    def enveloped(self, topic: str, entry: Entry) -> bytes:
        """The envelope form of an entry of this log, encoded when first asked for (I5)."""
        if entry is self.end:
            return entry.frame
        if entry.enveloped is None:
            plain = entry.end or not entry.frame
            entry.enveloped = entry.frame if plain else sse.envelope(topic, entry.frame, entry.id)
            self.envelope_bytes += len(entry.enveloped)
        return entry.enveloped

    def after(self, cursor: EventId) -> Iterator[Entry]:
        """The entries after `cursor`, oldest first. Not to be kept over a change of the log."""
        entries = self._entries
        return (entries[index] for index in range(self._index_after(cursor), len(entries)))

    @property
    def footprint(self) -> int:
        """Bytes of memory that the entries take, Python's own included; an estimate. A kept end is part of the record."""
        return self.bytes + self.envelope_bytes + (self._stop - self._start) * ENTRY_OVERHEAD_BYTES

    def visible(self) -> tuple[Entry | None, Entry | None, int, int]:
        """What a reader who comes now could have of events: the first, the last, how many, and their bytes."""
        first, stop = self._index_after(self.cleared_at), self._stop
        count = stop - first
        if count <= 0:
            return None, None, 0, 0
        hidden = sum(len(entry.frame) for entry in self._entries[self._start : first])
        return self._entries[first], self._entries[stop - 1], count, self.bytes - hidden

    def has_gap(self, cursor: EventId) -> bool:
        """Whether something of this topic lies after `cursor` that isn't here any more, or that nobody can tell of."""
        if cursor < self.cleared_at:
            if cursor < self.cleared_after:
                return True
            cursor = self.cleared_at
        return self.is_past(cursor)

    def is_past(self, cursor: EventId) -> bool:
        """The same for a reader who is subscribed already: a DELETE hides nothing of what is held for it.

        An entry that tells of its gap itself doesn't count.
        """
        index = self._index_after(cursor)
        if index == len(self._entries):
            return self.last > cursor
        entry = self._entries[index]
        return entry.prev > cursor and entry.gap is None

    def start_after(self, cursor: EventId) -> EventId:
        """The cursor, `cursor` or the first one after it, from which a reader who comes now misses nothing."""
        index = self._index_after(max(cursor, self.cleared_at))
        if index == len(self._entries):
            return max(cursor, self.last)
        entry = self._entries[index]
        return cursor if entry.gap is not None else max(cursor, entry.prev)

    def start_before(self, count: int) -> EventId:
        """The cursor from which the newest `count` events follow, or all, if there are fewer."""
        first, stop = self._index_after(self.cleared_at), self._stop
        index = max(first, stop - count)
        if self.gap_entries:
            events = [at for at in range(first, stop) if self._entries[at].frame][-count:]
            index = events[0] if events else stop
        return self._entries[index].prev if index < len(self._entries) else self.last

    def _index_after(self, cursor: EventId) -> int:
        entries = self._entries
        if not entries or entries[-1].id <= cursor:
            return len(entries)
        return bisect_right(entries, cursor, lo=self._start, key=_entry_id)
