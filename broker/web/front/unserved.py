"""Limits the bytes that connections have received and that no handler has taken yet (I4).

While a handler waits, or the client reads no answer, a connection holds the bytes of one read of its socket, the requests in them and a
piece of a body: 64 KiB and more. A connection with an incomplete head holds a few KiB.

Rules: counts only. If the total is too large, the connection that has made no progress for longest makes room: honest ones hold
such bytes for milliseconds.
"""

from __future__ import annotations

from broker.metrics import Metrics
from broker.web.connection_timeouts import TimeoutReason, Waiting

MAX_BYTES = 64 << 20


class UnservedBytes:
    """The count for one front.

    Attributes:
        max_bytes: the limit for all connections together.
        bytes: what they hold.
    """

    def __init__(self, metrics: Metrics, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._cut = metrics.cut_requests
        self._held: dict[Waiting, int] = {}  # in the order in which they have made no progress

    def __len__(self) -> int:
        """How many connections hold any."""
        return len(self._held)

    def hold(self, connection: Waiting, size: int) -> None:
        """`connection` holds `size` bytes now. Connections may time out, this one too."""
        former = self._held.get(connection, 0)
        if size < former:
            del self._held[connection]  # so that it goes to the end
        self.bytes += size - former
        if size:
            self._held[connection] = size
        while self.bytes > self.max_bytes:
            oldest = next(iter(self._held))
            self.bytes -= self._held.pop(oldest)
            self._cut.add(TimeoutReason.MEMORY)
            oldest.time_out(TimeoutReason.MEMORY)
