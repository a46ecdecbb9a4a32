"""Limits how many large answers there are at a time, so that clients which don't read them can't fill the memory (I4).

Rules: nothing is refused. With too many on their way, further answers are small: a page of history then has fewer events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

MAX_COUNT = 64
LARGE_BYTES = (1 << 20) - 1024
"""Of the events in a large answer, so that all of it is at most 1 MiB."""
SMALL_BYTES = 48 << 10
"""Likewise; a small answer goes into the kernel's buffer for a connection."""


class UnreadAnswers(Protocol):
    """See `ConnectionTimeouts`."""

    @property
    def unread_answers(self) -> int: ...


class LargeAnswers:
    """The large answers of one application.

    Attributes:
        max_count: how many there may be.
    """

    def __init__(self, unread: UnreadAnswers) -> None:
        self.max_count = MAX_COUNT
        self._unread = unread
        self._in_progress = 0

    @contextmanager
    def room(self) -> Iterator[int]:
        """For the time in which an answer is made: how many bytes of events it may have."""
        is_large = self._in_progress + self._unread.unread_answers < self.max_count
        self._in_progress += is_large
        try:
            yield LARGE_BYTES if is_large else SMALL_BYTES
        finally:
            self._in_progress -= is_large
