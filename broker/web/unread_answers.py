"""Limits the bytes of answers that clients are slow to read: in all, and for each address (I4).

Rules: numbers and names. A large answer needs room before it is made: without, a page of history gets fewer events, and an answer
that can't be made smaller is refused. A small one is always sent, for the kernel's buffer takes it; a rest that stays all the same,
as of answers to requests that were sent together, counts too. A connection that would exceed the limit by that is closed.

Every event can be sent to a client that has read its former answers: the limits grow with the largest event.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from broker.errors import Overloaded, RateLimited
from broker.metrics import Metrics

MAX_BYTES = 64 << 20
ADDRESS_SHARE = 4
"""One address may have this part of them: a quarter."""
EVENT_FACTOR = 7
"""So many bytes a byte of an event takes at most: a control character 6 in JSON, an empty line 7 as it is kept."""
SPARE_SHARE = 4
"""So large a part more of them is for the unread rests of small answers."""
LARGE_BYTES = (1 << 20) - 1024
"""Of the events in a large answer, so that all of it is at most 1 MiB, unless a single event is larger."""
SMALL_BYTES = 48 << 10
"""Likewise; a small answer goes into the kernel's buffer for a connection."""
RETRY_SECONDS = (2, 6)
"""A client that is refused comes back after a random time between these."""


class UnreadAnswers:
    """The answers of one application.

    Args:
        max_event_bytes: the setting.

    Attributes:
        max_bytes: the limit for all of them together. One address may have a part of it.
        bytes: those that are held, and those that are reserved for answers in the making.
    """

    def __init__(self, metrics: Metrics, max_event_bytes: int) -> None:
        self.max_bytes = max(MAX_BYTES, 2 * ADDRESS_SHARE * EVENT_FACTOR * max_event_bytes)
        self.bytes = 0
        self._shortened = metrics.shortened_answers
        self._refused = metrics.refused_answers
        self._by_address: Counter[str] = Counter()
        self._held: dict[Hashable, tuple[str, int]] = {}  # by their holder, such as a connection

    def of(self, address: str) -> int:
        """How many bytes are held for `address`."""
        return self._by_address[address]

    @contextmanager
    def room(self, address: str) -> Iterator[Reservation]:
        """Reserve room for an answer to `address` while it is made.

        Without an address, as on a unix socket, only the limit for all applies.
        """
        reached = self._reached(address, LARGE_BYTES, self.max_bytes)
        if reached is not None:
            self._shortened.add(reached)
        reservation = Reservation(self, address, SMALL_BYTES if reached else LARGE_BYTES)
        try:
            if reached is None:
                reservation.need(LARGE_BYTES)
            yield reservation
        finally:
            self.release(reservation)

    def check(self, address: str, size: int) -> None:
        """Raises `RateLimited` or `Overloaded` if a large answer of `size` bytes to `address` lacks room."""
        reached = self._reached(address, size, self.max_bytes)
        if reached is None:
            return
        self._refused.add(reached)
        seconds = random.randint(*RETRY_SECONDS)
        if reached == "address":
            detail = "Read the answers that are on their way to you, then ask again."
            raise RateLimited(detail, retry_after=seconds)
        raise Overloaded("Too many answers are on their way to slow clients; ask again later.", seconds)

    def hold(self, holder: Hashable, address: str, size: int) -> bool:
        """Count `size` bytes, which `holder` holds now. Returns whether there is room; if not, they don't count.

        They may take a quarter more than large answers, which `check` admits: those must not take the room of small ones.
        """
        self.release(holder)
        if self._reached(address, size, self.max_bytes + self.max_bytes // SPARE_SHARE) is not None:
            return False
        self._held[holder] = (address, size)
        self.bytes += size
        self._by_address[address] += size
        return True

    def move(self, holder: Hashable, successor: Hashable) -> None:
        """`successor` takes over from `holder`."""
        if holder in self._held:
            self._held[successor] = self._held.pop(holder)

    def release(self, holder: Hashable) -> None:
        """`holder` holds nothing any more."""
        address, size = self._held.pop(holder, ("", 0))
        if size:
            self.bytes -= size
            self._by_address[address] -= size
            if not self._by_address[address]:
                del self._by_address[address]

    def _reached(self, address: str, size: int, max_bytes: int) -> str | None:
        """The limit that `size` more bytes would exceed, if any; `max_bytes` is that for all. An event larger than a limit is let through while nothing else is held."""
        if self.bytes and self.bytes + size > max_bytes:
            return "all"
        own = self._by_address[address] if address else 0
        return "address" if own and own + size > max_bytes // ADDRESS_SHARE else None


class Reservation:
    """Room for an answer that is being made.

    Attributes:
        max_bytes: how many bytes of events it may have, if it has more than one.
    """

    __slots__ = ("_address", "_answers", "_size", "max_bytes")

    def __init__(self, answers: UnreadAnswers, address: str, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._answers = answers
        self._address = address
        self._size = 0

    def need(self, size: int) -> None:
        """The answer has `size` bytes. Raises `RateLimited` or `Overloaded` if it is large and lacks room."""
        if size <= max(self._size, SMALL_BYTES):
            return
        self._answers.release(self)
        self._answers.check(self._address, size)
        self._answers.hold(self, self._address, size)
        self._size = size
