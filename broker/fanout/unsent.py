"""Bytes that a socket hasn't taken yet.

Rules: chunks are kept, not copied, since one may be written to thousands of sockets (I5). So an event that is larger than the
kernel's buffers takes its size once, however many subscribers have yet to read it (I4).
"""

from __future__ import annotations

import sys
from collections import deque

Data = bytes | bytearray | memoryview


class Unsent:
    """The bytes from `first` on of `data`, and those that are added behind.

    Attributes:
        size: how many are left.
    """

    __slots__ = ("_chunks", "_first", "size")

    def __init__(self, data: Data, first: int) -> None:
        self._chunks: deque[bytes | memoryview] = deque((_kept(data),))
        self._first = first  # of the first chunk
        self.size = len(data) - first

    def add(self, data: Data) -> None:
        if data:
            self._chunks.append(_kept(data))
            self.size += len(data)

    def next(self, most: int = sys.maxsize) -> memoryview:
        """At most so many bytes, which are to be sent next; empty at the end."""
        if not self._chunks:
            return memoryview(b"")
        first = self._first
        return memoryview(self._chunks[0])[first : first + most]

    def sent(self, count: int) -> None:
        """The socket has taken the first `count` bytes of `next`."""
        self.size -= count
        self._first += count
        if self._first == len(self._chunks[0]):
            self._chunks.popleft()
            self._first = 0


def _kept(data: Data) -> bytes | memoryview:
    """`data`, or a copy if it might change."""
    is_constant = isinstance(data, bytes) or (isinstance(data, memoryview) and isinstance(data.obj, bytes))
    return data if is_constant else bytes(data)  # type: ignore[return-value]
