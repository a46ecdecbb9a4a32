"""The readings of a replica: one for the entries that it lacks at the end, one for older entries in front.

Rules: every method is a `def`; a reading says which page it needs next and applies the reply (`page_reader` calls). A replica may
have changed when a page arrives, so each reading checks again.

Front entries are read from the newest back, so that each page joins the log at once: pages stay useful if no request waits for
the rest any more, and the newest events of a topic of any length cost one page.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from broker.errors import Unavailable
from broker.events import EventId
from broker.log.log import Log
from broker.stores.redis.formats import StoreHistory, TopicPage
from broker.stores.redis.page_reader import PAGE_ENTRIES, PageRequest
from broker.stores.redis.pubsub import PubSubReader
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.replicas import Replicas


@dataclass(frozen=True, slots=True)
class Need:
    """The part of a log that a subscriber's start needs.

    Attributes:
        cursor: the log must have all entries after it,
        newest: or so many of the newest events; 0: none suffice.
    """

    cursor: EventId
    newest: int = 0

    def is_met(self, log: Log) -> bool:
        return log.reaches(self.cursor) or 0 < self.newest <= count_events(log)


def count_events(log: Log) -> int:
    """At least how many events a new reader of `log` sees."""
    return log.visible()[2] - log.gap_entries


class ReadingOwner(Protocol):
    """Keeps readings."""

    def tail_ended(self, reading: TailReading) -> None:
        """The replica is LIVE."""

    def front_ended(self, reading: FrontReading) -> None:
        """The reading has reached its aim, or given up."""

    def may_go_on(self, reading: FrontReading) -> bool:
        """Whether to read on though no request waits for it."""


class TailReading:
    """Reads a replica to the end of the store's log, and makes it LIVE.

    Args:
        first: where an EMPTY replica begins; None: with the next event.

    Attributes:
        done: finished once the replica is LIVE.
    """

    __slots__ = ("_first", "_generation", "_owner", "_pubsub", "_replicas", "done", "replica")

    def __init__(
        self,
        replica: TopicReplica,
        first: Need | None,
        replicas: Replicas,
        pubsub: PubSubReader,
        owner: ReadingOwner,
    ) -> None:
        self.replica = replica
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._first = first
        self._replicas = replicas
        self._pubsub = pubsub
        self._owner = owner
        self._generation = 0  # of the pub/sub connection, when the page was requested

    @property
    def topic(self) -> str:
        return self.replica.topic

    def request(self) -> PageRequest | None:
        if not self._pubsub.is_ready:  # once it is, all replicas are read
            return None
        self._generation = self._pubsub.generation
        self.replica.clear_buffer()
        if self.replica.phase is not Phase.EMPTY:
            return PageRequest(self.replica.tail)
        if self._first is None:
            return PageRequest(None)
        return PageRequest(self._first.cursor, newest=min(self._first.newest or PAGE_ENTRIES, PAGE_ENTRIES))

    def take(self, last: EventId, history: StoreHistory, page: TopicPage) -> bool:
        replica = self.replica
        if replica.phase is Phase.EMPTY:
            replica.begin(page, last if self._first is None else min(self._first.cursor, last), history)
            page = page._replace(more=False)  # older ones; `FrontReading` reads them if they are needed
        self._replicas.learn(history)
        replica.apply_page(page)
        if page.more or self._generation != self._pubsub.generation or not self._pubsub.is_ready:
            return True
        if not self._replicas.go_live(replica, last):
            return True
        self.done.set_result(None)
        self._owner.tail_ended(self)
        return False

    def fail(self, _error: Unavailable) -> bool:
        return True


class FrontReading:
    """Puts older entries in front of a replica's log, until all needs are met.

    It goes on if no request waits any more, so that a subscriber that comes back finds it further. Then it stops when the
    memory for logs is full, rather than have other topics lose their entries.
    """

    __slots__ = (
        "_after",
        "_cursor",
        "_emptied",
        "_newest",
        "_owner",
        "_replicas",
        "_upto",
        "_waiting",
        "replica",
    )

    def __init__(self, replica: TopicReplica, replicas: Replicas, owner: ReadingOwner) -> None:
        self.replica = replica
        self._replicas = replicas
        self._owner = owner
        self._cursor: EventId | None = None  # the lowest that was asked for
        self._newest = 0  # the most that were asked for
        self._waiting: dict[asyncio.Future[int | Unavailable], Need] = {}
        self._after: EventId = 0  # the range of the page on its way
        self._upto: EventId = 0
        self._emptied = 0  # the log's, when that was requested

    @property
    def topic(self) -> str:
        return self.replica.topic

    def ask(self, need: Need) -> asyncio.Future[int | Unavailable]:
        """A future that is done once `need` is met: with the log's `emptied` then, or with an error."""
        met: asyncio.Future[int | Unavailable] = asyncio.get_running_loop().create_future()
        self._waiting[met] = need
        met.add_done_callback(self._waiting.pop)  # also called for a cancelled one
        if need.newest:
            self._newest = max(self._newest, need.newest)
        else:
            self._cursor = need.cursor if self._cursor is None else min(self._cursor, need.cursor)
        return met

    def request(self) -> PageRequest | None:
        log = self.replica.log
        lacking = 0 if log.reaches(0) else self._newest - count_events(log)
        size = min(PAGE_ENTRIES, lacking)
        after: EventId = 0
        if self._cursor is not None and not log.reaches(self._cursor):
            size = PAGE_ENTRIES
            after = self._cursor if lacking <= 0 else 0
        if size <= 0:
            self._end()
            return None
        self._upto, self._emptied, self._after = log.complete_from, log.emptied, after
        return PageRequest(after, self._upto, size)

    def take(self, _last: EventId, history: StoreHistory, page: TopicPage) -> bool:
        self._replicas.learn(history)
        is_further = self._join(page)
        self._settle()
        if self._is_awaited or (is_further and self._owner.may_go_on(self)):
            return True
        self._owner.front_ended(self)
        return False

    def _join(self, page: TopicPage) -> bool:
        """Put the page in front of the log. Returns whether that was of use."""
        log = self.replica.log
        if log.complete_from == self._upto:
            if not self._is_awaited and not self._replicas.has_room(page.entries):
                return False
            complete_from = page.entries[0][1] if page.more else self._after
            self._replicas.prepend(self.replica, page.entries, complete_from)
            return True
        if log.emptied == self._emptied:
            # Retention has passed the whole page meanwhile, so the log answers for all before it as the store does.
            self._replicas.prepend(self.replica, (), self._after)
            return True
        return False  # the bounds on all logs took what the page would join

    @property
    def _is_awaited(self) -> bool:
        return any(not met.done() for met in self._waiting)

    def _settle(self) -> None:
        """Finish the futures of the needs that are met now. The log may be trimmed again before their callers look."""
        log = self.replica.log
        for met, need in self._waiting.items():
            if not met.done() and need.is_met(log):
                met.set_result(log.emptied)

    def fail(self, error: Unavailable) -> bool:
        for met in self._waiting:
            if not met.done():
                met.set_result(error)
        self._owner.front_ended(self)
        return False

    def _end(self) -> None:
        self._settle()
        self._owner.front_ended(self)
