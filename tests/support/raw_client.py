"""A client that reads only on demand, so that a reset may destroy unread bytes; plain or with TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Self

from tests.support.http import HOST
from tests.support.waiting import WAIT_SECONDS

READ_BYTES = 1 << 16


class RawClient:
    """A connection to `port`; a context manager.

    Args:
        trusting: for TLS; None for a plain connection.

    Attributes:
        has_notice: whether the server ended TLS with a notice: without one, an attacker may have cut the connection.
    """

    def __init__(
        self,
        port: int,
        trusting: ssl.SSLContext | None = None,
        *,
        receive_buffer: int = 0,
        send_buffer: int = 0,
    ) -> None:
        self.has_notice = False
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if trusting is not None:
            self._tls = trusting.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)

    async def __aenter__(self) -> Self:
        await self._loop.sock_connect(self._socket, (HOST, self._port))
        while self._tls is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._loop.sock_recv(self._socket, READ_BYTES))
            else:
                await self._flush()
                break
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def _flush(self) -> None:
        await self._loop.sock_sendall(self._socket, self._outgoing.read())

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        async with asyncio.timeout(WAIT_SECONDS):
            if self._tls is None:
                await self._loop.sock_sendall(self._socket, data)
            else:
                self._tls.write(data)
                await self._flush()

    def half_close(self) -> None:
        """Send no more."""
        self._socket.shutdown(socket.SHUT_WR)

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises `ConnectionError` after a reset."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                if self._tls is not None:
                    try:
                        data = self._tls.read(READ_BYTES)
                        self.has_notice = not data
                        return data
                    except ssl.SSLWantReadError:
                        pass
                    except ssl.SSLZeroReturnError:
                        self.has_notice = True
                        return b""
                    except ssl.SSLEOFError:
                        return b""
                data = await self._loop.sock_recv(self._socket, READ_BYTES)
                if self._tls is None:
                    return data
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()

    async def rest(self) -> bytes:
        """All that comes until the end."""
        received = b""
        while data := await self.read():
            received += data
        return received
