"""A connection with TLS: the protocol of a plain transport, and the transport of the connection that is served.

Rules: keeps asyncio's rules for transports, with limits of 0 for its buffer. It counts as a request connection from accept on.

The loop's own TLS would keep up to 256 KiB for each connection, and report no rest of a write. Here bytes stay encrypted until
there is room for them, at most one read of the socket, and all that is held is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import ssl
from typing import Any, cast

from broker.fanout.unsent import Data
from broker.web.connection_timeouts import TimeoutReason
from broker.web.front.answers import NO_TLS
from broker.web.front.lingering import MAX_BYTES
from broker.web.front.owner import TlsOwner
from broker.web.front.tls_output import RECORD_BYTES, TlsOutput

SESSION_BYTES = 20 << 10
"""What OpenSSL takes for a connection."""
CLOSE_SECONDS = 30.0
"""For the client to close after the broker has."""

_HANDSHAKE = b"\x16"  # the first byte of a client that speaks TLS: a record's type (RFC 8446 §5.1)

_logger = logging.getLogger("broker")


class _Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    ENDING = enum.auto()  # it closes once everything is sent; arrivals are dropped, as then
    CLOSING = enum.auto()  # what arrives is dropped, up to `MAX_BYTES`, until the client closes too
    CLOSED = enum.auto()  # `connection_lost` was called, or will be


class TlsTransport:
    """A connection that becomes `connection`, the protocol above it, when its handshake is complete.

    It inherits neither `asyncio.Transport` nor `asyncio.Protocol`: mypyc makes a native class only without such a base.
    """

    __slots__ = (
        "_context",
        "_dropped",
        "_incoming",
        "_is_full",
        "_is_holding",
        "_is_paused",
        "_output",
        "_owner",
        "_phase",
        "_protocol",
        "_raw",
        "_rest",
        "_timer",
        "_tls",
        "_undecrypted",
    )

    def __init__(
        self, owner: TlsOwner[TlsTransport], connection: asyncio.Protocol, context: ssl.SSLContext
    ) -> None:
        self._owner = owner
        self._protocol: asyncio.Protocol | None = connection  # None after its `connection_lost`
        self._context = context
        self._phase = _Phase.HANDSHAKE
        self._raw: asyncio.Transport  # from `connection_made` on
        self._incoming: ssl.MemoryBIO  # these two from the first byte on
        self._output: TlsOutput
        self._tls: ssl.SSLObject | None = None
        self._rest = b""  # received, and not given to OpenSSL yet
        self._undecrypted = self._dropped = 0  # bytes that OpenSSL has, of an incomplete record
        self._is_paused = self._is_holding = self._is_full = False  # full: the connection above doesn't write
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """How many bytes were received and not decrypted."""
        return len(self._rest) + self._undecrypted

    # From the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = raw = cast("asyncio.Transport", transport)  # uvloop's aren't in name
        raw.set_write_buffer_limits(high=0)
        self._owner.handshakes.add(self)
        self._owner.timeouts.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._phase in (_Phase.ENDING, _Phase.CLOSING, _Phase.CLOSED):
            self._dropped += len(data)
            if self._dropped > MAX_BYTES:
                self.abort()
            return
        if self._tls is None:
            if not data.startswith(_HANDSHAKE):
                self._refuse(data)
                return
            self._incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = self._context.wrap_bio(self._incoming, outgoing, server_side=True)
            self._output = TlsOutput(self._raw, self._tls, outgoing)
            self._hold(SESSION_BYTES)
        self._rest = self._rest + data if self._rest else data
        self._decrypt()

    def eof_received(self) -> bool:
        """Returns False: the transport closes. A client that ends its side without a notice has left."""
        if self._phase is _Phase.OPEN:
            self.get_protocol().eof_received()
        return False

    def pause_writing(self) -> None:
        if self._phase is not _Phase.HANDSHAKE and not self._is_full:
            self._is_full = True
            self.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        if self._phase is _Phase.HANDSHAKE:
            return
        self._output.send_on()
        if self.get_write_buffer_size() or self._raw.is_closing():
            return
        if self._is_full:
            self._is_full = False
            self.get_protocol().resume_writing()
        if self._phase is _Phase.ENDING:
            self._output.end()
            self._shut_down()

    def connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        self._phase = _Phase.CLOSED
        if self._tls is not None:
            self._output.drop()
        self._tls, self._rest = None, b""
        self._hold(0)
        if self._timer is not None:
            self._timer.cancel()
        if self in self._owner.handshakes:
            self._owner.timeouts.closed(self)
            self._owner.handshake_ended(self)
        elif protocol is not None:
            protocol.connection_lost(exc)

    def time_out(self, reason: TimeoutReason) -> None:
        self.abort()

    # Reading

    def pause_reading(self) -> None:
        self._is_paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._decrypt)

    def _decrypt(self) -> None:
        """Decrypt what was received while there is room for it, a record's worth in each turn of the loop."""
        if (tls := self._tls) is None or self._is_paused:
            return
        if self._rest:
            piece, self._rest = self._rest[:RECORD_BYTES], self._rest[RECORD_BYTES:]
            self._incoming.write(piece)
            self._undecrypted += len(piece)
        try:
            if self._phase is _Phase.HANDSHAKE:
                tls.do_handshake()
                self._opened()
            while self._phase is _Phase.OPEN and not self._is_paused:
                data = tls.read(RECORD_BYTES)
                if not data:
                    self._ended()
                    break
                self._undecrypted = self._incoming.pending
                self.get_protocol().data_received(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended()
        except ssl.SSLError as error:
            _logger.debug("a TLS connection failed: %s", error)
            self._output.flush()  # the alert that says why
            self.abort()
        if self._phase is _Phase.OPEN or self._phase is _Phase.HANDSHAKE:
            self._settle()

    def _opened(self) -> None:
        """The handshake is complete."""
        self._output.flush()
        self._phase = _Phase.OPEN
        self._undecrypted = self._incoming.pending
        self._owner.timeouts.closed(self)
        self._owner.handshake_ended(self)
        self.get_protocol().connection_made(cast("asyncio.Transport", self))

    def _settle(self) -> None:
        """Send what OpenSSL has answered, count what it keeps, and read on if there is room."""
        self._output.flush()
        if self._undecrypted or self._phase is _Phase.HANDSHAKE:
            self._hold(SESSION_BYTES + 2 * self._undecrypted)  # OpenSSL's buffer, and its input's
        elif self._is_holding:
            self._hold(0)
        if self._rest and not self._is_paused:
            self._raw.pause_reading()
            asyncio.get_running_loop().call_soon(self._decrypt)
        elif not (self._is_paused or self._raw.is_reading()):
            self._raw.resume_reading()

    def _hold(self, size: int) -> None:
        self._is_holding = size > 0
        self._owner.unserved.hold(self, size)

    def _ended(self) -> None:
        """The client has sent its notice of the end."""
        if self._phase is _Phase.OPEN:
            self.get_protocol().eof_received()
        self.close()
        if self._phase is not _Phase.ENDING:
            self._raw.close()

    def _refuse(self, data: bytes) -> None:
        """The client doesn't speak TLS: tell it, if it speaks HTTP."""
        if not data[:1].isalpha():
            self.abort()
            return
        self._raw.write(NO_TLS)
        self._shut_down()

    # Writing

    def write(self, data: Data) -> None:
        if self._phase is _Phase.OPEN and data:
            self._output.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Accepts only limits of 0, which it has."""
        if high or low:
            raise ValueError("a TLS transport has limits of 0")

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() + (0 if self._tls is None else self._output.size)

    def can_write_eof(self) -> bool:
        return False

    # Ending

    def is_closing(self) -> bool:
        return self._phase is not _Phase.OPEN or self._raw.is_closing()

    def close(self) -> None:
        """Tell the client of the end, once everything is sent, and wait for its own."""
        if self._phase is _Phase.OPEN and self._output.size:
            self._phase = _Phase.ENDING
            self._close_in_time()
        elif self._phase is _Phase.OPEN:
            self._output.end()
            self._shut_down()

    def _shut_down(self) -> None:
        """Send nothing more, and drop what arrives: to close the socket could destroy what the client hasn't read."""
        self._phase, self._rest = _Phase.CLOSING, b""
        self._hold(0)
        with contextlib.suppress(OSError):  # the client has left; asyncio's transport raises
            self._raw.write_eof()
        self._raw.resume_reading()
        self._close_in_time()

    def _close_in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        if self._phase is not _Phase.CLOSED:
            self._phase = _Phase.CLOSED
            self._raw.abort()

    # As any transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`sslcontext` and `ssl_object`, and what the transport below has."""
        own = {"sslcontext": self._context, "ssl_object": self._tls}
        return own[name] if name in own else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.Protocol:
        assert self._protocol is not None
        return self._protocol
