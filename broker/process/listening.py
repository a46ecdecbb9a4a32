"""Listens on bound sockets, and makes a protocol for each connection.

Rules: knows no HTTP. The options of a connection's socket are set once, on the listening one: accepted sockets inherit them.
Connections get a transport of ours (`socket_transport`). Where the system has no epoll, such as on macOS, they get the loop's own:
it works as well, and costs more.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from broker.process.accepting import Acceptor
from broker.process.listeners import BACKLOG
from broker.process.proxied import ProxiedConnections
from broker.process.setup import StartError
from broker.process.socket_polling import SocketPolling
from broker.process.socket_transport import connect

SEND_BUFFER_BYTES = 64 << 10
"""The kernel doubles it; without a bound it would hold megabytes for each stuck client (I4)."""
RECEIVE_BUFFER_BYTES = 64 << 10
"""The same for a client that sends while nothing is read."""


class ConnectionFactory(Protocol):
    """Makes the protocol of a connection."""

    def __call__(self, peer: str = "") -> asyncio.Protocol:
        """`peer` is the client's IP address, from a PROXY header if there is one; "" if the transport knows it, or if it is unknown."""


class Listening:
    """Servers on `sockets`, which `stop` closes.

    Args:
        connect_securely: for TCP, if it has TLS; unix sockets are plain.
        trusted_proxies: None if connections have no PROXY header. Else those of these addresses must begin with one.
        head_seconds: the limit for the header.
    """

    def __init__(
        self,
        connect: ConnectionFactory,
        sockets: Sequence[socket.socket],
        *,
        connect_securely: ConnectionFactory | None = None,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] | None,
        head_seconds: float,
    ) -> None:
        self._connect = connect
        self._connect_tcp = connect_securely or connect
        self._sockets = sockets
        self._trusted_proxies = trusted_proxies
        self._head_seconds = head_seconds
        self._loop = asyncio.get_running_loop()
        self._polling = SocketPolling(self._loop) if hasattr(select, "epoll") else None
        self._servers: list[asyncio.AbstractServer | Acceptor] = []
        self._proxied: list[ProxiedConnections] = []

    async def start(self) -> None:
        """Listen. Raises `StartError` if another process listens there."""
        try:
            for sock in self._sockets:
                self._servers.append(await self._serve(sock))
        except OSError as error:
            self.stop()
            raise StartError(f"can't listen on {describe(sock)}: {error.strerror}") from None

    def stop(self) -> None:
        """Stop accepting. Open connections go on."""
        for server in self._servers:
            server.close()
        for proxied in self._proxied:
            proxied.close()
        self._servers.clear()
        self._proxied.clear()
        if self._polling is not None:
            self._polling.stop()

    async def _serve(self, sock: socket.socket) -> asyncio.AbstractServer | Acceptor:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if sock.family == socket.AF_UNIX:
            if self._polling is None:
                return await self._loop.create_unix_server(self._connect, sock=sock, backlog=BACKLOG)
            return Acceptor(sock, partial(_open, self._polling, self._connect))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._trusted_proxies is not None:
            proxied = ProxiedConnections(self._open_tcp, self._trusted_proxies, self._head_seconds)
            self._proxied.append(proxied)
            return Acceptor(sock, proxied.opened)
        if self._polling is None:
            return await self._loop.create_server(self._connect_tcp, sock=sock, backlog=BACKLOG)
        return Acceptor(sock, partial(_open, self._polling, self._connect_tcp))

    async def _open_tcp(self, connection: socket.socket, peer: str) -> None:
        """Open a connection behind its PROXY header. Raises `OSError` if the client has left."""
        if self._polling is not None:
            _open(self._polling, self._connect_tcp, connection, peer)
        else:
            await self._loop.connect_accepted_socket(partial(self._connect_tcp, peer), connection)


def _open(polling: SocketPolling, make: ConnectionFactory, connection: socket.socket, peer: str) -> None:
    connect(polling, connection, make(peer))


def describe(sock: socket.socket) -> str:
    """Where `sock` listens, for people."""
    address = sock.getsockname()
    return str(address) if sock.family == socket.AF_UNIX else f"{address[0]} port {address[1]}"
