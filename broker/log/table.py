"""The logs of all topics together, within a bound on their bytes and on their number.

Rules: as for one log: values in memory, no I/O. A store owns one of these; whoever reads a log through a store gets it
from here.

What is given up goes by least recent use, in two steps. Over `max_bytes`, a log loses its entries; its `last` stays, so
that every cursor is still judged exactly. Over `max_topics`, a record goes as a whole and raises `floor` to its `last`:
whatever lies at or before the floor may have been there, nobody can tell, so a cursor before it is told of a gap
(design §2). A pinned log (somebody is subscribed) is never given up as a whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedDict

from broker.events import EventId, id_at
from broker.log.log import Log
from broker.topics import Retention, RetentionRules


class LogTable:
    """A mapping of topic to `Log` that stays within its bounds.

    Args:
        born: nothing is known of what was before this id.
        retention: what each topic keeps.
        max_bytes: bound on the footprint of all logs together; what is on its way to subscribers may exceed it.
        max_topics: bound on the number of topics that nobody is subscribed to.
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
        self._retention = retention
        self._max_bytes = max_bytes
        self._max_topics = max_topics
        self._topic_memory_seconds = topic_memory_seconds
        self._logs: SortedDict[str, Log] = SortedDict()  # by name, so that a page of names costs little
        self._pins: dict[str, int] = {}
        self._unpinned: OrderedDict[str, Log] = OrderedDict()  # least recently used first
        self._filled: OrderedDict[str, Log] = OrderedDict()  # those with entries, least recently used first
        self._sweep: Iterator[str] = iter(())

    def __len__(self) -> int:
        return len(self._logs)

    def names_after(self, topic: str, limit: int) -> list[str]:
        """The first `limit` names after `topic`, sorted; what comes or goes between two calls moves no other name."""
        return list(islice(self._logs.irange(topic, inclusive=(False, True)), limit))

    def get(self, topic: str) -> Log | None:
        return self._logs.get(topic)

    def unknown_last(self, now: float) -> EventId:
        """What stands for `last` of a topic without a record: it may have had an event at or before this id."""
        return max(self.floor, min(self.newest, id_at(now - self._topic_memory_seconds)))

    def open(self, topic: str, now: float) -> Log:
        """The log of `topic`, made if there is none."""
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = Log(self.unknown_last(now), self._retention.of(topic))
            self._unpinned[topic] = log
        return log

    def open_with_retention(self, log: Log, seconds: float) -> None:
        """`log` is about to grow, and is to keep that for `seconds`: heeded where it is the first of its topic, or after a DELETE."""
        if not log.named or log.last == log.cleared_at:
            log.retention = self._retention.with_retain(seconds)

    def retain(self, topic: str, log: Log, retention: Retention | None) -> None:
        """Have `log` keep what its first publisher has asked for; None: what all of its kind do."""
        log.retention = retention or self._retention.of(topic)

    def pin(self, topic: str, now: float) -> Log:
        """The log of `topic`, kept until `unpin` was called as often; counts as a use of it."""
        log = self.open(topic, now)
        self._pins[topic] = self._pins.get(topic, 0) + 1
        self._unpinned.pop(topic, None)
        if topic in self._filled:
            self._filled.move_to_end(topic)
        self.trim(topic, log, now)
        return log

    def pins(self, topic: str) -> int:
        """How often `pin` was called and not taken back."""
        return self._pins.get(topic, 0)

    def unpin(self, topic: str) -> bool:
        """Take one pin back and tell whether it was the last; a log that never had an entry goes with it."""
        pins = self._pins.pop(topic) - 1
        if pins:
            self._pins[topic] = pins
        elif self._logs[topic].named:
            self._unpinned[topic] = self._logs[topic]
            self._squeeze()
        else:
            del self._logs[topic]
        return not pins

    def appended(self, topic: str, log: Log, now: float) -> None:
        """To be called when `log` has grown: counts it as used, and keeps the bounds."""
        self.newest = max(self.newest, log.last)
        self._filled[topic] = log
        self._filled.move_to_end(topic)
        if topic in self._unpinned:
            self._unpinned.move_to_end(topic)
        self.trim(topic, log, now)
        self._squeeze()

    def filled(self, topic: str, log: Log) -> None:
        """To be called when entries were put in front: the same, but they stay for now, whatever the bounds say.

        Somebody is about to read them, who would ask for them again and again where they are too many.
        """
        self._settle(topic, log)
        if log.footprint:
            self._filled[topic] = log
            self._filled.move_to_end(topic)
        self._squeeze(spare=log)

    def discard(self, topic: str) -> None:
        """Forget a log that nobody is subscribed to, and that its store can tell of again."""
        log = self._logs.pop(topic)
        self.bytes -= log.accounted
        self._pins.pop(topic, None)
        self._filled.pop(topic, None)
        self._unpinned.pop(topic, None)

    def trim(self, topic: str, log: Log, now: float) -> None:
        """Drop what the retention of `topic` no longer covers."""
        log.trim(now)
        self._settle(topic, log)

    def _settle(self, topic: str, log: Log) -> None:
        footprint = log.footprint
        self.bytes += footprint - log.accounted
        log.accounted = footprint
        if not footprint:
            self._filled.pop(topic, None)

    def _squeeze(self, spare: Log | None = None) -> None:
        while self.bytes > self._max_bytes and self._empty_one(spare):
            pass
        while len(self._unpinned) > self._max_topics:
            self._forget(*self._unpinned.popitem(last=False))

    def _empty_one(self, spare: Log | None) -> bool:
        for topic, log in self._filled.items():
            if log is spare:
                continue
            log.empty()
            if log.footprint < log.accounted:
                self._settle(topic, log)
                return True
        return False

    def _forget(self, topic: str, log: Log) -> None:
        self.floor = max(self.floor, log.last)
        self.bytes -= log.accounted
        self._filled.pop(topic, None)
        del self._logs[topic]

    def sweep(self, now: float, most: int) -> None:
        """One step of the endless walk that drops what became too old; looks at no more than `most` logs."""
        for topic in self._next_topics(most):
            log = self._filled.get(topic)
            if log is not None:
                self.trim(topic, log, now)
        oldest = id_at(now - self._topic_memory_seconds)
        for _ in range(most):
            topic, log = next(iter(self._unpinned.items()), ("", None))
            if log is None or log.last >= oldest:
                break
            del self._unpinned[topic]
            self._forget(topic, log)
        self._squeeze()

    def _next_topics(self, most: int) -> Iterable[str]:
        for _ in range(most):
            topic = next(self._sweep, None)
            if topic is None:
                self._sweep = iter(list(self._filled))
                return
            yield topic
