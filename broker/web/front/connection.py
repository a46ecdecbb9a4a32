"""One connection: has its requests served one after the other, and sends the answers in order.

A handler that never waits runs in the call that brings its request, without a task. A request with a body on its way is served
as soon as its head is complete, so that it can be refused before the body is sent. A stream takes the transport away: its subscriber is
the protocol then. So does the last answer (`lingering`). Nothing is left of the request.

Rules: at most one request is in progress. Requests behind it wait, and reading stops: a client can make one read grow.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from broker.fanout.transports import coalesce, peer_address
from broker.web.connection_timeouts import TimeoutReason
from broker.web.errors import problem
from broker.web.front.answers import CONTINUE, HEAD_TOO_SLOW
from broker.web.front.buffers import is_secure, undecrypted_bytes
from broker.web.front.exchange import Exchange
from broker.web.front.lingering import Lingering
from broker.web.front.owner import ConnectionOwner
from broker.web.front.parser import RequestParser

SLICE_BYTES = 16 << 10
"""Parsed at once: so many bytes of requests may wait, parsed, behind one in progress."""
REQUESTS_PER_TURN = 16
"""Of one connection in one turn of the loop; an expensive one takes about a millisecond. A multiple of it is left, and reported."""

_logger = logging.getLogger("broker")


class HttpConnection:
    """A connection until it ends or becomes a stream; an `asyncio.Protocol` as `Subscriber` is.

    Attributes:
        is_half_closed: whether the client sends no more; it is still to be answered.
        told_peer: the client's address from a proxy; if empty, the transport's counts.
    """

    __slots__ = (
        "_current",
        "_has_answered",
        "_has_ended",
        "_holds_body",
        "_is_head_timed",
        "_is_holding",
        "_is_reading",
        "_is_writable",
        "_owner",
        "_parser",
        "_rest",
        "_transport",
        "is_half_closed",
        "told_peer",
    )

    def __init__(self, owner: ConnectionOwner[HttpConnection], peer: str = "") -> None:
        self.told_peer = peer
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._current: Exchange | None = None  # the request in progress
        self._rest = b""  # read, and not parsed yet
        self.is_half_closed = self._holds_body = self._is_head_timed = False
        self._is_holding = False  # counted as one with unserved bytes
        self._is_reading = self._is_writable = True
        self._has_answered = False  # since the last `_settle`
        self._has_ended = False  # what arrives is ignored

    @property
    def peer(self) -> str:
        """The client's address, or its nearest proxy's; "" on a unix socket, and after the end."""
        if self.told_peer or self._transport is None:
            return self.told_peer
        return peer_address(self._transport)

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's aren't in name
        transport.set_write_buffer_limits(high=0)
        self._parser: RequestParser = RequestParser(self, self._owner.max_head_bytes, self._owner.known_heads)
        self._owner.connections.add(self)
        self._owner.timeouts.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._owner.timeouts.closed(self)
            self._forget()

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            return
        if self._rest:
            self._rest += data
            self._report_held()
            return
        if len(data) <= SLICE_BYTES:
            self._parser.feed(data)
            if (current := self._current) is not None and current is self._parser.body:
                if current.held_bytes:  # else a piece of its body changes nothing here
                    self._report_held()
                return
        else:
            self._rest = data
        self.resume()

    def eof_received(self) -> bool:
        """Returns whether to stay open, to answer complete requests; an incomplete body is given up."""
        transport = self._transport
        if transport is None or self._has_ended or is_secure(transport):
            return False
        if self._parser.body is not None or not (self._current or self._parser.ready or self._rest):
            return False
        self.is_half_closed = True
        return True

    def pause_writing(self) -> None:
        self._is_writable = False
        if self._transport is not None:
            self._owner.timeouts.answer_started(self)

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._transport is not None and not self._has_ended:
            self._owner.unread.release(self)
            self._owner.timeouts.answer_sent(self)
            self.resume()
            if self._is_holding:
                self._report_held()

    def time_out(self, reason: TimeoutReason) -> None:
        """Close the connection, with an answer if part of a head has arrived."""
        if self._transport is None:
            return
        _logger.debug("closing a connection from %s: time-out %s", self.peer, reason)
        if reason is TimeoutReason.HEAD and self._parser.is_head_begun and self._is_writable:
            self._parser.refuse(problem("invalid-parameter", HEAD_TOO_SLOW))
            self.resume()
        else:
            self.abort()

    # For the request in progress

    def hold_body(self, *, held: bool) -> None:
        self._holds_body = held
        if self._rest and not held:
            asyncio.get_running_loop().call_soon(self.resume)
        self._regulate()
        if self._transport is not None:
            self._report_held()

    def coalesce(self, *, on: bool) -> None:
        if self._transport is not None:
            coalesce(self._transport, on=on)

    def send_continue(self) -> None:
        if self._transport is not None:
            self._transport.write(CONTINUE)

    def answered(self, exchange: Exchange, data: bytes, *, closes: bool) -> None:
        """Send the answer, and close if so. `resume` must follow if the handler had to wait."""
        self._current = None
        self._has_answered = True
        transport = self._transport
        if transport is None:
            return
        if exchange.is_coalesced:
            coalesce(transport, on=False)
        transport.write(data)
        if not self._is_writable:
            self._owner.unread.hold(self, exchange, transport.get_write_buffer_size())
        if not closes:
            if self._holds_body:
                exchange.take()  # what its handler left unread; else nothing would be read any more
            return
        if self.is_half_closed or transport.is_closing():  # nothing follows
            self._owner.timeouts.answer_started(self)
            self._end()
            transport.close()
            return
        is_complete = exchange.is_complete and not (self._rest or self._parser.ready)
        lingering = Lingering(transport, self._owner, is_complete=is_complete)
        self._owner.unread.move(self, lingering)
        self._owner.timeouts.replaced(self, lingering, is_sent=not transport.get_write_buffer_size())
        self._leave_transport(transport)

    def take_transport(self) -> asyncio.Transport | None:
        """The transport, for a stream; None if the client has left."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return None
        self._owner.timeouts.closed(self)
        self._leave_transport(transport)
        return transport

    def _leave_transport(self, transport: asyncio.Transport) -> None:
        """The transport is another protocol's from now on."""
        self._forget()
        if not self._is_reading and not self.is_half_closed:
            transport.resume_reading()

    def abort(self) -> None:
        """Close at once, without an answer."""
        if self._transport is not None:
            self._has_ended, self._rest = True, b""
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close if no request is in progress, and none waits."""
        if not (self._current or self._parser.ready or self._has_ended) and self._transport is not None:
            self._end()
            self._transport.close()

    def resume(self) -> None:
        """Serve the requests that have arrived, until a request waits, the client does not read its answers, or others have their turn."""
        ready, left = self._parser.ready, len(self._parser.ready) % REQUESTS_PER_TURN or REQUESTS_PER_TURN
        while self._current is None and self._is_writable and not self._has_ended:
            if ready:
                if not left:
                    asyncio.get_running_loop().call_soon(self.resume)
                    break
                left -= 1
                self._is_head_timed = False
                self._current = ready.popleft()
                self._owner.serve(self, self._current)
            elif not self._rest or not self._feed_slice():
                break
        current = self._current
        if current and current is self._parser.body and not self._holds_body and self._feed_slice():
            asyncio.get_running_loop().call_soon(self.resume)  # others have their turn after each slice
        self._settle()

    def _feed_slice(self) -> bool:
        """Parse more of the bytes that were read. Returns whether there was any."""
        rest = self._rest
        if rest and not self._has_ended:
            self._rest = rest[SLICE_BYTES:]
            self._parser.feed(rest[:SLICE_BYTES])
            return True
        return False

    def _settle(self) -> None:
        """Something has arrived or was answered: set the limit that applies now, and read on or not."""
        if self._transport is None or self._has_ended:
            return
        timeouts = self._owner.timeouts
        if self._current is not None or self._parser.ready:
            timeouts.head_complete(self)
        elif self.is_half_closed and self._is_writable:
            self._end()
            self._transport.close()
        elif self._is_writable:  # else `pause_writing` has set the limit
            if self._parser.is_head_begun:
                self._report_held()
                if not self._is_head_timed:
                    self._is_head_timed = True
                    timeouts.head_started(self)
            elif self._has_answered:
                timeouts.answer_sent(self)
            if self._is_reading and not (self._rest or self._holds_body or self._is_holding):
                self._has_answered = False
                return  # it reads on, as after most requests
        self._has_answered = False
        self._regulate()

    def _regulate(self) -> None:
        """Read only while there is room for what arrives."""
        transport = self._transport
        is_full = self._holds_body or self._rest or self._parser.ready
        is_reading = self._has_ended or (self._is_writable and not is_full)
        if transport is not None and is_reading != self._is_reading:
            self._is_reading = is_reading
            (transport.resume_reading if is_reading else transport.pause_reading)()
        elif not self._is_holding or (is_full and len(self._parser.ready) % REQUESTS_PER_TURN):
            return
        self._report_held()

    def _report_held(self) -> None:
        """Have what was received and not served counted; not for each request, which would cost more than it tells."""
        size = len(self._rest) + self._parser.memory() + (self._current.count_held() if self._current else 0)
        self._is_holding = size > 0
        size += undecrypted_bytes(self._transport) if size else 0
        self._owner.unserved.hold(self, size)

    def _end(self) -> None:
        """Ignore what arrives from now on."""
        self._has_ended, self._rest = True, b""
        self._regulate()

    def _forget(self) -> None:
        """The connection serves no further requests."""
        self._has_ended, self._is_holding, self._rest = True, False, b""
        if self._current is not None:
            self._current.left()
        self._current = self._transport = None
        self._parser.close()
        self._owner.unserved.hold(self, 0)
        self._owner.closed(self)
