"""One subscriber: a cursor, a socket, and nothing in between that could grow.

Rules: knows bytes and its transport; which bytes come next is the hub's business. No task, no queue.

A subscriber that is up to date is written to at once, with `os.write` on its socket: the transport has nothing buffered
then, so order is kept. What the socket doesn't take goes to the transport, and the subscriber is *lagging*: it gets
nothing more until the transport has sent that rest, and then catches up from the log by its cursor (design §1). So it
costs one piece, however far it falls behind (I4), and nobody waits for it (I3). A transport that is not a plain socket
(TLS) is always written through, with the same rule.

Whether the other side is still there, and reads, is judged by what it has acknowledged, the kernel's buffer included: a
reader at a few KB/s may not free the transport's buffer for minutes and is not stuck. (How fine that is, is the kernel's
choice: over loopback it acknowledges in steps of up to 64 KiB, so a slow reader behind a proxy on the same machine looks
stuck in between.) TCP_USER_TIMEOUT can't tell at all: the kernel's clock also runs against a peer whose window is small
but opens again and again, and cuts it within an event.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from broker.auth.grants import Caller
from broker.events import EventId

if TYPE_CHECKING:
    from broker.fanout.feed import Feed

_LINGER_NONE = struct.pack("ii", 1, 0)
_NO_SOCKET = -1


class CloseReason(enum.StrEnum):
    """Why a stream ended: the same word in the log line and in the metric's label."""

    CLIENT = "client"
    """The other side left."""
    TIMEOUT = "timeout"
    """The other side acknowledged nothing any more, not even a heartbeat: half-open, gone without a word."""
    SLOW = "slow"
    """It read too slowly: the log moved past it, or nothing moved for `slow_seconds`."""
    ENDED = "ended"
    """All its topics have ended."""
    EXPIRED = "expired"
    """The token that let it in is good no longer."""
    DISCONNECTED = "disconnected"
    """An operator ended it, or its token was revoked."""
    MAX_AGE = "max-age"
    """It was open for as long as one may be; its client comes back, perhaps to another instance."""
    DRAINING = "draining"
    """This instance is shutting down."""


class Lag:
    """What is known of a lagging subscriber.

    Attributes:
        pending: bytes that its peer has yet to acknowledge.
        moved_at: when that last changed.
        unanswered: nothing more is to be written to it, but a heartbeat's time has passed without an acknowledgement.
        notice: a control event that it is to be written first, once it can be written to; the latest one.
    """

    __slots__ = ("moved_at", "notice", "pending", "unanswered")

    def __init__(self, now: float, *, unanswered: bool = False) -> None:
        self.pending = -1
        self.moved_at = now
        self.unanswered = unanswered
        self.notice = b""


class Owner(Protocol):
    """Whom a subscriber tells of itself: the hub."""

    def flushed(self, subscriber: Subscriber) -> None:
        """The transport has sent what it held."""

    def left(self, subscriber: Subscriber) -> None:
        """The other side sends no more."""

    def lost(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """The connection is gone; called once."""


class Subscriber(asyncio.Protocol):
    """One subscriber; on being made it becomes the protocol of `transport`.

    Attributes:
        caller: who it is.
        cursor: id of the last event written, in whole or in part.
        lag: None while it is up to date or can be brought there by one write.
        wrote_at: when bytes were last written, for the heartbeat; loop time in seconds.
        since: when it was connected; loop time in seconds.
        feed: what it reads; None once it is on its way out.
        seat, place: its index in the hub's list and in its feed's; the hub's to change. -1 where it has none.
    """

    __slots__ = (
        "_owner",
        "_reason",
        "_socket",
        "_transport",
        "caller",
        "cursor",
        "feed",
        "hub_index",
        "lag",
        "place",
        "since",
        "wrote_at",
    )

    def __init__(
        self, transport: asyncio.Transport, owner: Owner, caller: Caller, cursor: EventId, now: float
    ) -> None:
        self.caller = caller
        self.cursor = cursor
        self.feed: Feed | None = None
        self.lag: Lag | None = None
        self.wrote_at = now
        self.since = now
        self.hub_index = -1
        self.place = -1
        self._owner = owner
        self._transport = transport
        self._reason: CloseReason | None = None
        transport.set_protocol(self)
        plain = transport.get_extra_info("sslcontext") is None
        self._socket: int = transport.get_extra_info("socket").fileno() if plain else _NO_SOCKET

    def reads(self, topic: str) -> bool:
        """Whether `topic` is one of those that it is still written."""
        return self.feed is not None and topic in self.feed.key.topics

    def write(self, chunk: bytes, now: float) -> None:
        """Send `chunk`, whole; afterwards this subscriber may be lagging. Only while it is not.

        An error of the socket ends the connection: `lost` follows.
        """
        sent = 0
        if self._socket >= 0:
            try:
                sent = os.write(self._socket, chunk)
            except BlockingIOError:
                pass
            except OSError:
                self._abort(CloseReason.CLIENT)
                return
        self.wrote_at = now
        if sent != len(chunk):
            self.write_behind(memoryview(chunk)[sent:], now)

    def write_behind(self, rest: bytes | memoryview, now: float) -> None:
        """Send through the transport, behind what it may still hold."""
        if self._transport.is_closing():
            return
        self._transport.write(rest)
        if self.lag is None and self._transport.get_write_buffer_size():
            self.lag = Lag(now)

    def is_flushed(self) -> bool:
        """Whether the transport holds nothing."""
        return not self._transport.get_write_buffer_size()

    def is_stuck(self, now: float, slow_seconds: float) -> bool:
        """Whether a lagging subscriber's peer has taken nothing for `slow_seconds`; to be asked again and again."""
        lag = self.lag
        if lag is None:
            return False
        pending = self._unacknowledged()
        if pending != lag.pending or not pending:
            lag.pending = pending
            lag.moved_at = now
        return now - lag.moved_at >= slow_seconds

    def _unacknowledged(self) -> int:
        outgoing = struct.pack("i", 0)
        sock = self._transport.get_extra_info("socket")
        if sock is None:  # TLS: it is gone, and connection_lost follows
            return 0
        (in_kernel,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, outgoing))
        return int(in_kernel) + self._transport.get_write_buffer_size()

    def is_acknowledged(self) -> bool:
        """Whether the other side has all that was written."""
        return not self._unacknowledged()

    def finish(self, reason: CloseReason, last: bytes, now: float) -> None:
        """End the stream after what is underway and `last`.

        The connection stays until the other side has acknowledged it all (`close` then), for at most as long as a
        lagging one may stand still: closed at once, the kernel would hold what is left for as long as it likes.
        """
        if self._reason is not None or self._transport.is_closing():
            return
        if last and self.lag is None:
            self.write(last, now)
        elif last:
            self.write_behind(last, now)
        self._reason = self._reason or reason
        if self._socket < 0 or self._transport.is_closing():
            self._transport.close()
        else:
            self._transport.write_eof()
            self.lag = self.lag or Lag(now)
            if self.is_acknowledged():
                self._transport.close()

    def close(self) -> None:
        """Give the connection back; everything was acknowledged."""
        self._transport.close()

    def cut(self, reason: CloseReason) -> None:
        """End the connection now, and let the kernel forget what it still holds for it."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self._abort(reason)

    def _abort(self, reason: CloseReason) -> None:
        if self._reason is None:
            self._reason = reason
        self._transport.abort()

    def resume_writing(self) -> None:
        if self.lag is not None and not self._transport.is_closing():
            self._owner.flushed(self)

    def eof_received(self) -> bool:
        """The other side has left; what the kernel still holds for it is watched until it is gone."""
        self._owner.left(self)
        return self._socket >= 0 and not self._transport.is_closing() and not self.is_acknowledged()

    def connection_lost(self, exc: Exception | None) -> None:
        gone = CloseReason.TIMEOUT if isinstance(exc, TimeoutError) else CloseReason.CLIENT
        self._owner.lost(self, self._reason or gone)


def write_each(group: Sequence[Subscriber], cursor: EventId, chunk: bytes, end: EventId, now: float) -> int:
    """Send `chunk` to those of `group` who are at `cursor` and not lagging, and move them on to `end`; returns how many.

    This is the innermost loop of the broker. It does what `Subscriber.write` does, without a call for each: that alone
    would cost a fifth of the kernel's work for a delivery.
    """
    size, send = len(chunk), os.write
    written = 0
    for subscriber in group:
        if subscriber.lag is not None or subscriber.cursor != cursor:
            continue
        subscriber.cursor = end
        written += 1
        if not size:
            continue
        subscriber.wrote_at = now
        try:
            sent = send(subscriber._socket, chunk)  # noqa: SLF001 - its own module
        except OSError:
            subscriber.write(chunk, now)  # which tells a full socket from a dead one, and from none
            continue
        if sent != size:
            subscriber.write_behind(memoryview(chunk)[sent:], now)
    return written
