"""Takes a connection out of aiohttp, so that an open stream costs 1.5 KB and not 10 (design §3).

Rules: everything that leans on aiohttp's inside is here, with a test per behaviour. aiohttp has parsed the request and run
the middlewares; nothing was answered yet. Afterwards the transport belongs to the new protocol, aiohttp's own believes
that its connection is gone, and its handler ends with a response that writes nothing but gets its line in the access log.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler

SEND_BUFFER_BYTES = 64 << 10
"""The kernel doubles it for its own bookkeeping; unbounded it would hold megabytes for each stuck reader (I4)."""


class Gone(web.Response):
    """The response of a handler whose connection was handed over, or has ended: nothing is left to write."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


GONE = Gone(status=200)
LEFT = Gone(status=499, reason="Client Closed Request")
"""For the access log alone, in nginx's word: who would have been answered has left before."""


def take(request: web.Request) -> asyncio.Transport:
    """The transport of `request`, which aiohttp has let go of; it awaits its new protocol before the loop's next turn.

    It tells its protocol of every rest that has left, and of the other side's leaving.

    Raises:
        ConnectionResetError: the other side has left already.
    """
    transport = request.transport
    if transport is None or transport.is_closing() or getattr(request.protocol, "half_closed", False):
        raise ConnectionResetError("left before the stream began")
    _forget(request.protocol)
    transport.set_write_buffer_limits(high=0)  # else a small rest is never reported as sent
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    transport.resume_reading()  # a peer that pipelined had it paused, and its leaving would go unseen
    return transport


def _forget(protocol: RequestHandler) -> None:
    protocol.transport = None  # else connection_lost would close it
    protocol.connection_lost(None)


def leave(request: web.Request) -> web.Response:
    """End the connection of `request` without a word."""
    if request.transport is not None:
        request.transport.abort()
    return LEFT
