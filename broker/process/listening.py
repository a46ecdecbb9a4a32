"""Accepts connections on bound sockets, and makes a protocol for each.

Rules: knows no HTTP. A PROXY header is read from the socket before its transport and TLS begin, byte by byte as far as it goes,
so the protocol never sees it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Protocol

from broker.process.listeners import BACKLOG
from broker.process.proxy_header import MAX_V2_BYTES, BadHeader, client_address, header_bytes
from broker.process.setup import StartError

ACCEPTS_PER_TURN = 64
RETRY_SECONDS = 1.0
"""After the kernel refuses to accept, usually because all descriptors are in use."""
LOG_SECONDS = 60.0
"""How often bad headers are logged."""

_logger = logging.getLogger("broker")


class ConnectionFactory(Protocol):
    """Makes the protocol of a connection."""

    def __call__(self, peer: str = "") -> asyncio.BaseProtocol:
        """`peer` is the client's IP address in a PROXY header; "" without one: it is the transport's peer."""


class Listening:
    """Servers on `sockets`, which stay the caller's.

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
        self._servers: list[asyncio.AbstractServer | _ProxiedServer] = []

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
        self._servers.clear()

    async def _serve(self, sock: socket.socket) -> asyncio.AbstractServer | _ProxiedServer:
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            return await loop.create_unix_server(self._connect, sock=sock, backlog=BACKLOG)
        if self._trusted_proxies is None:
            return await loop.create_server(self._connect_tcp, sock=sock, backlog=BACKLOG)
        return _ProxiedServer(self._connect_tcp, sock, self._trusted_proxies, self._head_seconds)


def describe(sock: socket.socket) -> str:
    """Where `sock` listens, for people."""
    address = sock.getsockname()
    return str(address) if sock.family == socket.AF_UNIX else f"{address[0]} port {address[1]}"


class _ProxiedServer:
    """A server on one socket. Connections from `trusted` addresses begin with a PROXY header."""

    def __init__(
        self,
        connect: ConnectionFactory,
        sock: socket.socket,
        trusted: Sequence[IPv4Network | IPv6Network],
        head_seconds: float,
    ) -> None:
        self._connect = connect
        self._socket = sock
        self._trusted = trusted
        self._head_seconds = head_seconds
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._logged_at = -LOG_SECONDS
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Stop accepting; connections without a complete header are closed."""
        self._loop.remove_reader(self._socket)
        if self._retry is not None:
            self._retry.cancel()
        for task in self._opening:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _logger.error("can't accept connections: %s", error.strerror)
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(
                    RETRY_SECONDS, self._loop.add_reader, self._socket, self._accept
                )
                return
            task = self._loop.create_task(self._open(connection, address[0]))
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("defect in accepting a connection", exc_info=task.exception())

    async def _open(self, connection: socket.socket, address: str) -> None:
        """Hand the connection to its protocol, once its header was read. Raises only `CancelledError`."""
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = ""
            if self._trusts(address):
                async with asyncio.timeout(self._head_seconds):
                    peer = client_address(await _read_header(connection))
            await self._loop.connect_accepted_socket(partial(self._connect, peer), connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, BadHeader | TimeoutError):
                self._log(address, error)
            elif not isinstance(error, OSError):  # the client has left, or its handshake has failed
                raise

    def _trusts(self, address: str) -> bool:
        found = ip_address(address.partition("%")[0])
        mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
        return any((mapped or found) in network for network in self._trusted)

    def _log(self, address: str, error: Exception) -> None:
        if self._loop.time() - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = self._loop.time()
        why = str(error) or "it did not arrive in time"
        _logger.warning(
            "closed a connection of the trusted proxy %s without a PROXY header: %s", address, why
        )


async def _read_header(connection: socket.socket) -> bytes:
    """The PROXY header of a connection; all bytes behind it stay in the socket.

    Raises:
        BadHeader: there is none.
    """
    header = b""
    while True:
        await _readable(connection)
        peeked = connection.recv(MAX_V2_BYTES - len(header), socket.MSG_PEEK)
        if not peeked:
            raise BadHeader("the connection ended before it")
        end = header_bytes(header + peeked)
        wanted = len(peeked) if end is None else min(len(peeked), end - len(header))
        header += connection.recv(wanted)
        if len(header) == end:
            return header


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(connection, _set, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
