"""The logs of all topics, within a bound on their bytes and on their number.

Rules: as for one log: values in memory, no I/O. A store owns one table; readers get their logs from it through the
store.

The least recently used are given up first, in two steps. Over `max_bytes`, a log loses its entries but keeps its
`last`, so that every cursor is still judged exactly. Over `max_topics`, the whole record goes, and `floor` rises to its
`last`. An event at or before the floor may have existed, so a cursor before the floor gets a gap (design §2). A pinned
log, which has subscribers, is never given up as a whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from sortedcontainers import SortedList

from broker.events import EventId
from broker.log.entry import ENTRY_OVERHEAD_BYTES
from broker.log.log import Log
from broker.log.timeline import Correction, Timeline
from broker.topics import Retention, RetentionRules


class LogTable:
    """A mapping of topic to `Log` that stays within its bounds.

    Args:
        born: nothing before this id is known.
        max_bytes: bound on the footprint of all logs; entries on their way to subscribers may exceed it.
        max_topics: bound on the number of topics without subscribers.
        topic_memory_seconds: how long a topic's `last` outlives its newest entry.
    """

    def __init__(
        self,
        born: EventId,
        retention: RetentionRules,
        *,
        max_bytes: int,
        max_topics: int,
        topic_memory_seconds: float,
    ) -> None:
        self.born = born
        self.floor = born
        self.newest = born
        self.bytes = 0
        self.timeline = Timeline()
        self._retention = retention
        self.max_bytes = max_bytes
        self._max_topics = max_topics
        self._topic_memory_seconds = topic_memory_seconds
        self._logs: dict[str, Log] = {}
        self._names: SortedList[str] = (
            SortedList()
        )  # of all but `_unlisted`; sorted, so that a page costs little
        self._unlisted: set[str] = set()  # deleted, and neither pinned nor used since
        self.get = self._logs.get  # called for each event: it costs no call of ours
        self._pins: dict[str, int] = {}
        self._unpinned: OrderedDict[str, Log] = OrderedDict()  # least recently used first
        self._filled: OrderedDict[str, Log] = OrderedDict()  # those with entries, least recently used first
        self._untrimmed: dict[
            str, Log
        ] = {}  # with events on their way: retention may no longer cover all they have
        self._unswept: Iterator[str] = iter(())

    def __len__(self) -> int:
        return len(self._logs)

    def names_after(self, topic: str, limit: int) -> list[str]:
        """The first `limit` names after `topic`, sorted, without those of deleted topics that are neither pinned nor used since.

        Paging is stable while other topics come and go.
        """
        return list(islice(self._names.irange(topic, inclusive=(False, True)), limit))

    def count_names(self, without: str) -> int:
        """How many names `names_after` has in all, without those that begin with the character `without`."""
        begin, stop = self._names.bisect_left(without), self._names.bisect_left(chr(ord(without) + 1))
        return len(self._names) - (stop - begin)

    def unknown_last(self, now: float) -> EventId:
        """The `last` of a topic without a record: it may have had an event at or before this id."""
        return max(self.floor, min(self.newest, self.timeline.first_id(now - self._topic_memory_seconds)))

    def open(self, topic: str, now: float) -> Log:
        """The log of `topic`, made if needed."""
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = Log(self.unknown_last(now), self._retention.of(topic), self.timeline)
            self._unpinned[topic] = log
            self._names.add(topic)
        return log

    def open_with_retention(self, log: Log, seconds: float) -> None:
        """Keep events for `seconds`, if the topic opens now: it has had no event yet, or none since a DELETE."""
        if not log.named or log.last == log.cleared_at:
            log.retention = self._retention.with_retain(seconds)

    def retention_of(self, topic: str) -> Retention:
        """The retention that the rules give `topic`."""
        return self._retention.of(topic)

    def retain(self, topic: str, log: Log, retention: Retention | None) -> None:
        """Set the retention that the first publisher asked for; None sets that of the rules."""
        log.retention = retention or self._retention.of(topic)

    def pin(self, topic: str, now: float) -> Log:
        """The log of `topic`, kept until `unpin`. Counts as a use."""
        log = self.open(topic, now)
        self._pins[topic] = self._pins.get(topic, 0) + 1
        self._unpinned.pop(topic, None)
        if log.cleared_at:
            self._list(topic, log)
        if topic in self._filled:
            self._filled.move_to_end(topic)
        self.trim(topic, log, now)
        return log

    def pins(self, topic: str) -> int:
        """How many pins `topic` has."""
        return self._pins.get(topic, 0)

    def unpin(self, topic: str) -> bool:
        """Undo one `pin`. Returns whether it was the last; a log that never had an entry goes with it."""
        pins = self._pins.pop(topic) - 1
        if pins:
            self._pins[topic] = pins
        elif self._logs[topic].named:
            self._unpinned[topic] = self._logs[topic]
            self._list(topic, self._logs[topic])
            self._forget_surplus()
        else:
            self._remove(topic)
        return not pins

    def appended(self, topic: str, log: Log, now: float) -> None:
        """To be called when `log` has grown: counts as a use, and keeps the bounds.

        A log with events on their way is trimmed once they are written (`trim`), not now, while there is room.
        """
        last, filled, barrier = log.last, self._filled, log.trim_barrier
        if last > self.newest:
            self.newest = last
        filled[topic] = log
        filled.move_to_end(topic)
        if topic in self._unpinned:
            self._unpinned.move_to_end(topic)
        if log.cleared_at:
            self._list(topic, log)
        if barrier == last or barrier is None:
            log.trim(now)
        else:
            self._untrimmed[topic] = log
        self._account(topic, log)
        if self.bytes > self.max_bytes or len(self._unpinned) > self._max_topics:
            self._squeeze(now)

    def filled(self, topic: str, log: Log, now: float) -> None:
        """To be called when entries were put in front of `log`: as `appended`, but these entries stay for now.

        A reader is about to read them; it would never get further if they were dropped to keep the bounds.
        """
        self._account(topic, log)
        if log.footprint:
            self._filled[topic] = log
            self._filled.move_to_end(topic)
        self._squeeze(now, spare=log)

    def has_room(self, size: int, entries: int) -> bool:
        """Whether `entries` more, with `size` bytes of frames, leave all logs within the bound on bytes."""
        return self.bytes + size + entries * ENTRY_OVERHEAD_BYTES <= self.max_bytes

    def discard(self, topic: str) -> None:
        """Forget the log of a topic without subscribers; its store still has the events."""
        self.bytes -= self._remove(topic).accounted
        self._pins.pop(topic, None)
        self._filled.pop(topic, None)
        self._unpinned.pop(topic, None)
        self._untrimmed.pop(topic, None)

    def trim(self, topic: str, log: Log, now: float) -> None:
        """Drop what retention no longer covers."""
        self._untrimmed.pop(topic, None)
        if log.trim(now) or log.envelope_bytes:  # envelopes are made without the table's knowledge
            self._account(topic, log)

    def _account(self, topic: str, log: Log) -> None:
        footprint = log.footprint
        self.bytes += footprint - log.accounted
        log.accounted = footprint
        if not footprint:
            self._filled.pop(topic, None)

    def _squeeze(self, now: float, spare: Log | None = None) -> None:
        """Apply the bounds; the entries of `spare` stay. No log is emptied for what retention no longer covers in another."""
        if self.bytes > self.max_bytes:
            for topic, log in list(self._untrimmed.items()):
                if log is not spare:
                    self.trim(topic, log, now)
        while self.bytes > self.max_bytes and self._empty_one(spare):
            pass
        self._forget_surplus()

    def _forget_surplus(self) -> None:
        while len(self._unpinned) > self._max_topics:
            self._forget(*self._unpinned.popitem(last=False))

    def _empty_one(self, spare: Log | None) -> bool:
        for topic, log in self._filled.items():
            if log is spare:
                continue
            log.empty()
            if log.footprint < log.accounted:
                self._account(topic, log)
                return True
        return False

    def _forget(self, topic: str, log: Log) -> None:
        self.floor = max(self.floor, log.last)
        self.bytes -= log.accounted
        self._filled.pop(topic, None)
        self._untrimmed.pop(topic, None)
        self._remove(topic)

    def _remove(self, topic: str) -> Log:
        if topic in self._unlisted:
            self._unlisted.remove(topic)
        else:
            self._names.remove(topic)
        return self._logs.pop(topic)

    def _list(self, topic: str, log: Log) -> None:
        """List the name of `topic`, unless it was deleted, and is neither pinned nor used since."""
        is_listed = not 0 < log.cleared_at == log.last or topic in self._pins
        if is_listed and topic in self._unlisted:
            self._unlisted.remove(topic)
            self._names.add(topic)
        elif not is_listed and topic not in self._unlisted:
            self._names.remove(topic)
            self._unlisted.add(topic)

    def correct(self, corrections: Sequence[Correction]) -> None:
        """Take over the store's corrections. Envelopes made before, which say when, are made again if needed."""
        self.timeline.corrections = tuple(corrections)
        for topic, log in list(self._filled.items()):
            for entry in log.after(0):
                entry.enveloped = None
            log.envelope_bytes = 0
            self._account(topic, log)

    def sweep(self, now: float, max_logs: int) -> None:
        """Drop what became too old, in the next `max_logs` logs."""
        for topic in self._next_topics(max_logs):
            log = self._filled.get(topic)
            if log is not None:
                self.trim(topic, log, now)
        oldest = self.timeline.first_id(now - self._topic_memory_seconds)
        for _ in range(max_logs):
            topic, log = next(iter(self._unpinned.items()), ("", None))
            if log is None or log.last >= oldest:
                break
            del self._unpinned[topic]
            self._forget(topic, log)
        self._squeeze(now)

    def _next_topics(self, count: int) -> Iterable[str]:
        for _ in range(count):
            topic = next(self._unswept, None)
            if topic is None:
                self._unswept = iter(list(self._filled))
                return
            yield topic
