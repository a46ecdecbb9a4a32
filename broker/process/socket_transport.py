"""The transport of a plain connection: one small object on a socket.

Rules: knows no HTTP. uvloop's transport of an idle connection takes about 1.1 KB, this one 0.3 KB, and it needs fewer system calls.

It keeps asyncio's rules for transports, with limits of 0 for its buffer: the protocol is paused as soon as a write leaves a rest,
and resumed when the rest has left.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import Any, cast

from broker.fanout.unsent import Data, Unsent
from broker.process.socket_polling import BROKEN, ONCE, READABLE, WRITABLE, SocketPolling, Watched


class _Phase(enum.Enum):
    OPEN = enum.auto()
    CLOSING = enum.auto()  # it closes when its buffer is empty
    CLOSED = enum.auto()  # `connection_lost` was called, or will be in the next turn


_OPEN, _CLOSING, _CLOSED = _Phase  # to look them up there costs as much as a call


def connect(polling: SocketPolling, connection: socket.socket, protocol: asyncio.Protocol) -> None:
    """Make `protocol` that of `connection`, a non-blocking socket, which its transport closes."""
    transport = SocketTransport(polling, connection, protocol)
    polling.add(connection, transport)
    try:
        protocol.connection_made(cast("asyncio.Transport", transport))
        transport.watch()
    except Exception as error:  # a defect must not keep others from connecting (I9)
        polling.failed(transport, error)


class SocketTransport(Watched):
    """A connected socket. Made by `connect`.

    It has the methods of an `asyncio.Transport`, but doesn't inherit them: mypyc makes no native class with such a base.
    """

    __deletable__ = ("_protocol",)  # mypyc asks
    __slots__ = (
        "_events",
        "_has_input",
        "_has_output",
        "_is_paused",
        "_phase",
        "_polling",
        "_protocol",
        "_socket",
        "_unsent",
    )

    def __init__(self, polling: SocketPolling, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        self._polling, self._socket = polling, connection
        self._protocol = protocol
        self._phase, self._is_paused = _OPEN, False
        self._events = 0  # what the epoll watches for
        self._has_input = True  # until the peer shuts down its sending side
        self._has_output = True  # until `write_eof`
        self._unsent: Unsent | None = None  # None if the socket has taken all

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, `peername`, or `coalesce`, the method; it has nothing else."""
        if name == "socket":
            return self._socket
        if name == "coalesce":
            return self.coalesce
        if name != "peername":
            return default
        try:
            return self._socket.getpeername()
        except OSError:  # the connection is gone
            return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._phase is not _OPEN

    # Reading and writing

    def is_reading(self) -> bool:
        return self._has_input and not self._is_paused and self._phase is _OPEN

    def pause_reading(self) -> None:
        self._is_paused = True
        self.watch()

    def resume_reading(self) -> None:
        self._is_paused = False
        self.watch()

    def coalesce(self, *, on: bool) -> None:
        """From now on, arrivals may wait for a moment and share a wake-up of the loop with others, or no longer."""
        if self._phase is not _CLOSED:
            self._polling.coalesce(self._socket, self._events, on=on)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Accepts only limits of 0, which it has."""
        if high or low:
            raise ValueError("a socket's transport has limits of 0")

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def get_write_buffer_size(self) -> int:
        return 0 if self._unsent is None else self._unsent.size

    def write(self, data: Data) -> None:
        if self._phase is _CLOSED or not self._has_output:
            return
        if self._unsent is not None:
            self._unsent.add(data)
            return
        sent = self._send(data)
        if sent is not None and sent < len(data):
            self._unsent = Unsent(data, sent)
            self.watch()
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Shut down the sending side once everything is sent."""
        if self._has_output and self._phase is not _CLOSED:
            self._has_output = False
            if self._unsent is None:
                self._shut_down()

    # Ending

    def close(self) -> None:
        """Close once everything is sent."""
        if self._phase is _OPEN:
            self._phase = _CLOSING
            if self._unsent is None:
                self._lose(None)
            else:
                self.watch()

    def abort(self) -> None:
        self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._phase is not _CLOSED:
            self._phase = _CLOSED
            self._unsent = None
            self.watch()
            self._polling.loop.call_soon(self._lost, error)

    def _lost(self, error: OSError | None) -> None:
        protocol = self._protocol
        del self._protocol  # it may refer to this
        try:
            protocol.connection_lost(error)
        finally:
            self._polling.remove(self._socket)

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    # From the epoll

    def watch(self) -> None:
        """Watch for what may be done now."""
        events = READABLE if self.is_reading() else 0
        if self._unsent is not None:
            events |= WRITABLE
        if not events and not self._has_input and self._phase is not _CLOSED:
            events = ONCE  # errors only, and each only once
        if events != self._events:
            self._polling.watch(self._socket, self._events, events)
            self._events = events

    def on_ready(self, events: int) -> None:
        """The socket is readable, writable or broken."""
        if self._unsent is not None and events & ~READABLE:
            self._flush()
        if events == READABLE == self._events or (events & ~WRITABLE and self.is_reading()):
            self._read()
        elif not self._has_input and events & BROKEN:  # the peer has reset the connection
            self._lose(OSError(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "reset"))

    def _read(self) -> None:
        try:
            data = self._polling.receive(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._protocol.data_received(data)
            return
        self._has_input = False
        if self._protocol.eof_received():
            self.watch()
        else:
            self.close()

    def _flush(self) -> None:
        unsent = self._unsent
        assert unsent is not None
        sent = self._send(unsent.next())
        if sent is None:
            return
        unsent.sent(sent)
        if unsent.size:
            return
        self._unsent = None
        if not self._has_output:
            self._shut_down()
        if self._phase is _CLOSING:
            self._lose(None)
        elif self._phase is _OPEN:
            self.watch()
            self._protocol.resume_writing()

    def _send(self, data: Data) -> int | None:
        """How many bytes the socket has taken; None if the connection is lost."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._lose(error)
            return None
