"""Connections that a proxy opens with a PROXY header, which names the client.

Rules: the header is read from the socket before its transport and TLS begin, byte by byte as far as it goes, so the protocol
never sees it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from broker.process.proxy_header import MAX_V2_BYTES, BadHeader, client_address, header_bytes

LOG_SECONDS = 60.0
"""How often bad headers are logged."""

_logger = logging.getLogger("broker")

Open = Callable[[socket.socket, str], Coroutine[Any, Any, None]]
"""Takes a connection, with its client's IP address. Raises `OSError` if the client has left."""


class ProxiedConnections:
    """Reads the headers of connections from `trusted` addresses, within `head_seconds`. Other connections send no header."""

    def __init__(
        self, open_connection: Open, trusted: Sequence[IPv4Network | IPv6Network], head_seconds: float
    ) -> None:
        self._open_connection = open_connection
        self._trusted = trusted
        self._head_seconds = head_seconds
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._logged_at = -LOG_SECONDS

    def close(self) -> None:
        """Close the connections without a complete header."""
        for task in self._opening:
            task.cancel()

    def opened(self, connection: socket.socket, address: str) -> None:
        """`address` has opened a connection."""
        task = self._loop.create_task(self._open(connection, address))
        self._opening.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("defect in accepting a connection", exc_info=task.exception())

    async def _open(self, connection: socket.socket, address: str) -> None:
        """Hand the connection over, once its header was read. Raises only `CancelledError`."""
        try:
            peer = ""
            if self._trusts(address):
                async with asyncio.timeout(self._head_seconds):
                    peer = client_address(await _read_header(connection))
            await self._open_connection(connection, peer or address)
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
