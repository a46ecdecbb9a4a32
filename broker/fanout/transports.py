"""Facts about sockets that asyncio's transports don't offer, and a switch of our own transports."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

_LINGER_NONE = struct.pack("ii", 1, 0)


def peer_address(transport: asyncio.Transport) -> str:
    """The IP address at the other end; "" on a unix socket, or if the connection is gone."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""


def coalesce(transport: asyncio.Transport, *, on: bool) -> None:
    """From now on, arrivals may wait for a moment, or no longer. A transport of the loop's own ignores this."""
    switch = transport.get_extra_info("coalesce")
    if switch is not None:
        switch(on=on)


def unacknowledged(transport: asyncio.Transport) -> int:
    """How many bytes were written that the peer has not acknowledged."""
    sock = transport.get_extra_info("socket")
    if sock is None:  # TLS: the connection is gone, and connection_lost follows
        return 0
    outgoing = struct.pack("i", 0)
    (in_kernel,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, outgoing))
    return int(in_kernel) + transport.get_write_buffer_size()


def reset_at_close(transport: asyncio.Transport) -> None:
    """Have the kernel drop its buffer when `transport` is aborted."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
