"""One subscriber: a cursor, a socket, and nothing in between that could grow.

Rules: knows bytes and its transport; fan-out decides which bytes come next. No task, no queue.

A subscriber that is up to date is written to at once, with `os.write` on its socket. The transport buffers nothing
then, so order is kept. What the socket doesn't take goes to the transport, and the subscriber *lags*: it gets nothing
more until the transport has sent that rest, and then catches up from the log by its cursor (design §1). So it costs one
piece, however far it falls behind (I4), and nothing waits for it (I3). A transport that is not a plain socket (TLS) is
always written through, with the same rule.

Whether the peer still reads shows in its acknowledgements: at a few KB/s it may not free the transport's buffer for
minutes, and yet is not stuck. Over loopback the kernel acknowledges in steps of up to 64 KiB, so a slow reader behind a
proxy on the same machine looks stuck in between. TCP_USER_TIMEOUT is useless for this: its clock also runs against a
peer that opens a small window again and again, and cuts that peer within an event.
"""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar, Protocol, cast

from broker.auth.grants import Caller
from broker.events import EventId
from broker.fanout.chunks import LAST_CHUNK, as_chunk
from broker.fanout.close_reason import COMPLETE, COMPLETE_IF_SILENT, CloseReason
from broker.fanout.feed import Feed
from broker.fanout.lag import Lag
from broker.fanout.origin import LIVE
from broker.fanout.totals import NOTHING, Totals
from broker.fanout.transports import peer_address, reset_at_close, unacknowledged

MAX_HEARD_BYTES = 64 << 10
"""A subscriber may send so much after its request; it is ignored."""
NO_SOCKET = -1


class SubscriberOwner(Protocol):
    """The hub, to which a subscriber reports."""

    def flushed(self, subscriber: Subscriber) -> None:
        """The transport's buffer is empty again."""

    def left(self, subscriber: Subscriber) -> None:
        """The peer has shut down its sending side."""

    def cut(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """End the connection at once."""

    def lost(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """The connection is gone; called once."""


class Subscriber:
    """A stream's connection: writes events to its socket. The constructor makes it the protocol of `transport`.

    It has the methods of an `asyncio.Protocol`, but doesn't inherit them: mypyc makes a native class only without such a base.

    Attributes:
        descriptor: that of its socket, for `write_each`; NO_SOCKET if that must call `write`.
        cursor: id of the last event written, in whole or in part.
        chunked: whether its bytes are chunks of an HTTP/1.1 body, as those of its feed.
        silent: whether it gets no control events, like its feed. Only the end of all its topics is a clean end then.
        quiet: whether it gets no heartbeats for `sweeper.QUIET_SECONDS`, to find out which time-outs lie on its path.
        lag: None while one write can bring it up to date.
        wrote_at: when bytes were last written; loop time in seconds, as is `opened_at`.
        feed: the feed it reads; None once its stream is ending.
        topics: those that it reads at its beginning.
        origin, address, request_id: how it began, and its client (`origin`).
        totals: shared with others that get the same writes; `events` and `bytes_written` build on it.
        own_events, own_bytes: by how much it differs from its `totals`.
        hub_index, feed_index: its indexes in the hub's and the feed's list, which set them; -1 if it is in none.
    """

    WRITES: ClassVar[int] = 1  # a write costs as much as so many to a stream
    __slots__ = (
        "_heard_bytes",
        "_owner",
        "_reason",
        "_transport",
        "address",
        "caller",
        "chunked",
        "cursor",
        "descriptor",
        "feed",
        "feed_index",
        "hub_index",
        "lag",
        "opened_at",
        "origin",
        "own_bytes",
        "own_events",
        "quiet",
        "request_id",
        "silent",
        "topics",
        "totals",
        "wrote_at",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: SubscriberOwner,
        caller: Caller,
        cursor: EventId,
        now: float,
        *,
        chunked: bool = False,
        silent: bool = False,
    ) -> None:
        self.caller = caller
        self.chunked, self.silent = chunked, silent
        self.quiet = False
        self.cursor = cursor
        self.feed: Feed | None = None
        self.lag: Lag | None = None
        self.wrote_at = self.opened_at = now
        self.hub_index = self.feed_index = -1
        self.topics: tuple[str, ...] = ()
        self.origin, self.address = LIVE, ""
        self.request_id: str | None = None
        self.totals = NOTHING
        self.own_events = self.own_bytes = 0
        self._heard_bytes = 0
        self._owner = owner
        self._transport = transport
        self._reason: CloseReason | None = None
        transport.set_protocol(cast("asyncio.Protocol", self))
        plain = transport.get_extra_info("sslcontext") is None
        self.descriptor: int = transport.get_extra_info("socket").fileno() if plain else NO_SOCKET

    @property
    def peer(self) -> str:
        """The client's IP address, or that of its nearest proxy; "" if unknown."""
        return self.address or peer_address(self._transport)

    @property
    def events(self) -> int:
        """How many were written to it so far."""
        return self.totals.events + self.own_events

    @property
    def bytes_written(self) -> int:
        """How many bytes, behind the opening."""
        return self.totals.bytes + self.own_bytes

    def share(self, totals: Totals, events: int, size: int) -> None:
        """It gets a write of `events` with `size` bytes that others get too. Their `totals` include the write, and are its own from now on."""
        self.own_events += self.totals.events + events - totals.events
        self.own_bytes += self.totals.bytes + size - totals.bytes
        self.totals = totals

    def reads(self, topic: str) -> bool:
        """Whether the subscriber still gets the events of `topic`."""
        return self.feed is not None and topic in self.feed.key.topics

    def encode(self, data: bytes) -> bytes:
        """`data`, which is not empty, as it goes over the wire."""
        return as_chunk(data) if self.chunked else data

    def write(self, chunk: bytes, now: float) -> None:
        """Send `chunk`, whole and as it is. Only while the subscriber doesn't lag; it may lag afterwards.

        A socket error ends the connection: `lost` follows.
        """
        sent = 0
        if self.descriptor >= 0:
            try:
                sent = os.write(self.descriptor, chunk)
            except BlockingIOError:
                pass
            except OSError:
                self._abort(CloseReason.CLIENT)
                return
        self.wrote_at = now
        self.own_bytes += sent
        if sent != len(chunk):
            self.write_behind(memoryview(chunk)[sent:], now)

    def write_first(self, chunk: bytes, now: float) -> None:
        """`write` on a connection that may still hold the answer to an earlier request."""
        if self.is_flushed():
            self.write(chunk, now)
        else:
            self.write_behind(chunk, now)

    def end_lag(self) -> None:
        self.lag = None  # a method, for behind an assignment mypyc takes it for None, even after a write

    def write_behind(self, rest: bytes | memoryview, now: float) -> None:
        """Send through the transport, after anything in its buffer."""
        if self._transport.is_closing():
            return
        self.own_bytes += len(rest)
        self._transport.write(rest)
        if self.lag is None and self._transport.get_write_buffer_size():
            self.lag = Lag(now)

    @property
    def is_finished(self) -> bool:
        """Whether the broker has ended the stream."""
        return self._reason is not None

    @property
    def is_complete(self) -> bool:
        """Whether the broker has ended the stream in a way that its client may take for the whole."""
        return self._reason in (COMPLETE_IF_SILENT if self.silent else COMPLETE)

    def is_flushed(self) -> bool:
        """Whether the transport holds nothing."""
        return not self._transport.get_write_buffer_size()

    def unwritten_bytes(self) -> int:
        """About how many bytes it lacks: those that its transport holds, and the events after its cursor."""
        held = self._transport.get_write_buffer_size()
        return held if self.feed is None else held + self.feed.bytes_after(self.cursor)

    def is_stuck(self, now: float, slow_seconds: float) -> bool:
        """Whether the subscriber lags and its peer has taken nothing for `slow_seconds`. To be called regularly: it compares calls."""
        lag = self.lag
        if lag is None:
            return False
        pending = unacknowledged(self._transport)
        if pending != lag.pending or not pending:
            lag.pending = pending
            lag.moved_at = now
        return now - lag.moved_at >= slow_seconds

    def is_acknowledged(self) -> bool:
        """Whether the peer has all that was written."""
        return not unacknowledged(self._transport)

    def finish(self, reason: CloseReason, last: bytes, now: float) -> None:
        """End the stream after everything on its way, and after `last`; if it is complete, with the last chunk.

        The connection stays open until the peer has acknowledged everything (then `close`), or is stuck. Closed at once, the
        kernel would hold the rest for as long as it likes.
        """
        if self.is_finished or self._transport.is_closing():
            return
        ending = self.encode(last) if last else b""
        if self.chunked and reason in (COMPLETE_IF_SILENT if self.silent else COMPLETE):
            ending += LAST_CHUNK
        if ending and self.lag is None:
            self.write(ending, now)
        elif ending:
            self.write_behind(ending, now)
        self._reason = self._reason or reason
        if self.descriptor < 0 or self._transport.is_closing() or self.is_acknowledged():
            self._transport.close()
        else:
            self._transport.write_eof()
            self.lag = self.lag or Lag(now)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def cut(self, reason: CloseReason) -> None:
        """End the connection now; the kernel drops its buffer."""
        reset_at_close(self._transport)
        self._abort(reason)

    def _abort(self, reason: CloseReason) -> None:
        self._reason = self._reason or reason
        self._transport.abort()

    def pause_writing(self) -> None:
        """`write_behind` has set `lag`."""

    def resume_writing(self) -> None:
        if self.lag is not None and not self._transport.is_closing():
            self._owner.flushed(self)

    def data_received(self, data: bytes) -> None:
        self._heard_bytes += len(data)
        if self._heard_bytes > MAX_HEARD_BYTES:
            self._owner.cut(self, CloseReason.FLOOD)

    def eof_received(self) -> bool:
        """The peer has left. Returns whether to keep the connection, until the peer has what the kernel still holds."""
        self._owner.left(self)
        return self.descriptor >= 0 and not self._transport.is_closing() and not self.is_acknowledged()

    def connection_lost(self, exc: Exception | None) -> None:
        gone = CloseReason.TIMEOUT if isinstance(exc, TimeoutError) else CloseReason.CLIENT
        self._owner.lost(self, self._reason or gone)
