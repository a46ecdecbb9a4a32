"""Limits how many large answers there are at a time, so that clients which don't read them can't fill the memory (I4).

Rules: nothing is refused. With too many on their way, in all or to one address, further answers are small: a page of history then
has fewer events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from broker.metrics import Metrics

MAX_COUNT = 64
ADDRESS_SHARE = 4
"""One address may have this part of them: a quarter."""
LARGE_BYTES = (1 << 20) - 1024
"""Of the events in a large answer, so that all of it is at most 1 MiB."""
SMALL_BYTES = 48 << 10
"""Likewise; a small answer goes into the kernel's buffer for a connection."""


class UnreadAnswers(Protocol):
    """See `ConnectionTimeouts`."""

    @property
    def unread_large(self) -> int: ...

    def unread_by(self, address: str) -> int: ...


class LargeAnswers:
    """The large answers of one application.

    Attributes:
        max_count: how many there may be.
    """

    def __init__(self, unread: UnreadAnswers, metrics: Metrics) -> None:
        self.max_count = MAX_COUNT
        self._unread = unread
        self._shortened = metrics.shortened_answers
        self._in_progress: Counter[str] = Counter()  # by address

    @contextmanager
    def room(self, address: str) -> Iterator[int]:
        """For the time in which an answer to `address` is made: how many bytes of events it may have.

        Without an address, as on a unix socket, only the limit for all applies.
        """
        reached = self._reached(address)
        if reached is not None:
            self._shortened.add(reached)
            yield SMALL_BYTES
            return
        self._in_progress[address] += 1
        try:
            yield LARGE_BYTES
        finally:
            self._in_progress[address] -= 1
            if not self._in_progress[address]:
                del self._in_progress[address]

    def _reached(self, address: str) -> str | None:
        """The limit that is reached, if one is. At most `max_count` unread answers are looked at."""
        if self._in_progress.total() + self._unread.unread_large >= self.max_count:
            return "all"
        most = max(1, self.max_count // ADDRESS_SHARE)
        if address and self._in_progress[address] + self._unread.unread_by(address) >= most:
            return "address"
        return None
