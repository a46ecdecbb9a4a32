"""A TLS connection until its handshake is complete.

Rules: it counts as a request connection from accept on, so a client that never begins its handshake takes no more room than one
that never sends a request. Then a connection of the front takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, cast

from broker.web.connection_timeouts import ConnectionTimeouts, TimeoutReason
from broker.web.driving import rest_of

_logger = logging.getLogger("broker")


class Handshake(asyncio.Protocol):
    """A connection that is to become `connection`.

    Args:
        timeouts: limit the time, as for a request's head.
        started: called with the task that shakes hands.
    """

    def __init__(
        self,
        connection: asyncio.Protocol,
        context: ssl.SSLContext,
        timeouts: ConnectionTimeouts,
        started: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._connection = connection
        self._context = context
        self._timeouts = timeouts
        self._started = started
        self._transport: asyncio.Transport | None = None
        self._early: _Early  # from `connection_made` on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._early = _Early(self._transport)
        self._timeouts.opened(self)
        running = self._run(self._transport)
        waited = running.send(None)  # at once: the first bytes must already reach TLS
        self._started(asyncio.get_running_loop().create_task(self._go_on(running, waited)))

    def time_out(self, reason: TimeoutReason) -> None:
        if self._transport is not None:
            self._transport.abort()

    @staticmethod
    async def _go_on(running: Coroutine[Any, Any, None], waited: object) -> None:
        await rest_of(running, waited)

    async def _run(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        secure: asyncio.Transport | None = None
        try:
            secure = await loop.start_tls(transport, self._early, self._context, server_side=True)
        except (OSError, ssl.SSLError) as error:
            _logger.debug("a TLS handshake failed: %s", error)
        finally:
            self._transport = None
            self._timeouts.closed(self)
            if secure is None:
                transport.abort()
        if secure is not None and secure.get_extra_info("socket") is not None:  # None: aborted meanwhile
            self._early.hand_over(secure, self._connection)


class _Early(asyncio.Protocol):
    """Keeps what arrives between the end of the handshake and the return of `start_tls`, usually in the next turn of the loop.

    A client may send its request together with the last message of its handshake. One read of the socket is kept; what
    follows stays in the kernel.

    Args:
        raw: the transport below TLS.
    """

    def __init__(self, raw: asyncio.Transport) -> None:
        self._raw = raw
        self._data = b""
        self._has_ended = False

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._raw.pause_reading()

    def eof_received(self) -> bool:
        self._has_ended = True
        return False

    def hand_over(self, transport: asyncio.Transport, connection: asyncio.Protocol) -> None:
        """Make `connection` the protocol of `transport`."""
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._data:
            self._raw.resume_reading()
            connection.data_received(self._data)
        if self._has_ended:
            connection.eof_received()
