"""Accepts connections on one bound socket.

Rules: knows neither protocols nor transports; `opened` takes each connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from broker.process.listeners import BACKLOG

ACCEPTS_PER_TURN = 16
"""Far fewer than the reserved descriptors: a connection that makes room for another frees its descriptor in the next turn."""
RETRY_SECONDS = 1.0
"""After the kernel refuses to accept, usually because all descriptors are in use."""

_logger = logging.getLogger("broker")


class Acceptor:
    """Accepts on `sock`, from now until `close`.

    Args:
        opened: called with each connection, which doesn't block, and its peer's IP address; "" for a unix socket. It must not
            raise.
    """

    def __init__(self, sock: socket.socket, opened: Callable[[socket.socket, str], None]) -> None:
        self._socket = sock
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Stop accepting, and close the socket: further clients are refused, or another process that shares it serves them."""
        self._loop.remove_reader(self._socket)
        if self._retry is not None:
            self._retry.cancel()
        self._socket.close()

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
            connection.setblocking(False)
            self._opened(connection, address[0] if isinstance(address, tuple) else "")
