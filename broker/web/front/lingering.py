"""A connection after its last answer: lets the client read it.

A client may go on sending, the rest of a body or requests behind the last one. A socket that is closed with such bytes unread
resets its connection, and a reset may destroy the answer before the client has read it (RFC 9112 §9.6).

Rules: nothing that arrives is kept. Time and bytes are bounded, and the connection can make room for others.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from broker.fanout.transports import unacknowledged
from broker.web.connection_timeouts import ConnectionTimeouts, TimeoutReason
from broker.web.front.unread import UnreadBytes

SECONDS = 2.0
"""For the client to close, once it has acknowledged the answer."""
MAX_WAITS = 15
"""So many times `SECONDS` for a client that reads slowly."""
MAX_BYTES = 8 << 20
"""A client that sends more than this is cut off."""


class LingeringOwner(Protocol):
    """The front."""

    timeouts: ConnectionTimeouts
    lingering: set[Lingering]
    unread: UnreadBytes

    def closed(self, connection: Lingering) -> None:
        """The connection has ended."""


class Lingering(asyncio.Protocol):
    """The protocol of `transport`, on which the last answer was written, until it ends.

    Args:
        is_complete: whether all that was read of the connection was also served.
    """

    __slots__ = ("_left_bytes", "_left_waits", "_owner", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: LingeringOwner,
        *,
        is_complete: bool,
    ) -> None:
        self._transport = transport
        self._owner = owner
        self._left_waits = MAX_WAITS
        self._left_bytes = MAX_BYTES
        self._timer = asyncio.get_running_loop().call_later(SECONDS, self._check)
        owner.lingering.add(self)
        transport.set_protocol(self)
        if transport.can_write_eof():
            transport.write_eof()
        elif is_complete:
            transport.close()  # TLS: what still arrives is dropped until the client has closed, too

    def data_received(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._owner.timeouts.closed(self)
        self._owner.closed(self)

    def resume_writing(self) -> None:
        self._owner.unread.release(self)  # the rest is in the kernel's buffer

    def time_out(self, reason: TimeoutReason) -> None:
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _check(self) -> None:
        """Close, unless the client is still reading the answer."""
        self._left_waits -= 1
        if unacknowledged(self._transport) and self._left_waits:
            pass
        elif self._transport.can_write_eof() or self._transport.is_closing():
            self.abort()
            return
        else:
            self._transport.close()  # TLS: with its own notice of the end
        self._timer = asyncio.get_running_loop().call_later(SECONDS, self._check)
