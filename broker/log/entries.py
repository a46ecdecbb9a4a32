"""The entries of a log, and how to find those after a cursor.

Rules: as for `log`, which adds and drops entries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

from broker.events import EventId
from broker.log.entry import Entry

_entry_id = attrgetter("id")


class Entries:
    """Entries by their ids, which ascend.

    Attributes:
        last: the id of the newest entry ever.
    """

    __slots__ = ("_entries", "_start", "last")

    def __init__(self, last: EventId) -> None:
        self.last = last
        self._entries: list[Entry] = []
        self._start = 0  # the index of the first that is held

    def __len__(self) -> int:
        """How many entries are held."""
        return len(self._entries) - self._start

    def after(self, cursor: EventId) -> Iterator[Entry]:
        """The entries after `cursor`, oldest first. Valid until the log changes."""
        return map(self._entries.__getitem__, range(self._index_after(cursor), len(self._entries)))

    def newest_after(self, cursor: EventId) -> Entry | None:
        """The newest entry, if it is an event, the log's last, and the one that follows `cursor`: all that most subscribers lack."""
        entries = self._entries
        if not entries or (len(entries) > 1 and entries[-2].id > cursor):
            return None
        entry = entries[-1]
        return entry if cursor < entry.id == self.last and entry.frame and not entry.end else None

    def few_after(self, cursor: EventId, limit: int) -> Sequence[Entry]:
        """The entries after `cursor`, oldest first, if they are at most `limit`."""
        entries = self._entries
        start = self._index_after(cursor)
        return entries[start:] if len(entries) - start <= limit else ()

    def between(self, cursor: EventId, stop: EventId) -> Iterator[Entry]:
        """The entries after `cursor` and before `stop`, newest first. Valid until the log changes."""
        first, last = self._index_after(cursor), self._index_after(stop - 1)
        return map(self._entries.__getitem__, range(last - 1, first - 1, -1))

    def _index_after(self, cursor: EventId) -> int:
        entries = self._entries
        if not entries or entries[-1].id <= cursor:
            return len(entries)
        return bisect_right(entries, cursor, lo=self._start, key=_entry_id)
