"""Takes a stream's connection out of aiohttp, and writes the `201` of a publish without it.

An open stream costs 1.5 KB here and 10 KB in aiohttp (design §3). The transport gets a new protocol, aiohttp's own believes
the connection lost, and the response writes nothing. A `201` by aiohttp took 13 of a publish's 80 µs.

Rules: besides `runner`, the only module that uses undocumented parts of aiohttp. These, each with a test:

    1  aiohttp calls a response's `prepare` and `write_eof` and writes nothing itself; then it logs the access
    2  `RequestHandler.transport = None` and `connection_lost(None)` make the server forget a connection without closing it
    3  afterwards all bytes go to the transport's new protocol
    4  reading is paused after pipelined requests, until `resume_reading`
    5  `_keep_alive` of a response decides whether the connection is kept; None is undecided
    6  `RequestHandler.writing_paused` is True if the client does not read; `request.writer.drain()` waits for it
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11
from aiohttp.web_protocol import RequestHandler

from broker.web.headers import head_lines
from broker.web.subscribe import Subscription
from broker.web.values import JSON, Answer

SEND_BUFFER_BYTES = 64 << 10
"""The kernel doubles it; without a bound it would hold megabytes for each stuck subscriber (I4)."""

_CREATED = b"HTTP/1.1 201 Created\r\n%bContent-Length: %d\r\n%b%b\r\n%b"
_JSON_LINES = head_lines(JSON)
_CLOSE = b"Connection: close\r\n"


class Created(web.StreamResponse):
    """A `201` on HTTP/1.1, written in one piece."""

    def __init__(self, answer: Answer, common_headers: bytes) -> None:
        super().__init__(status=201)
        self._answer = answer
        self._common_headers = common_headers

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport, answer = request.transport, self._answer
        if transport is None:
            raise ConnectionResetError("the client left before the answer")
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        lines = _JSON_LINES if answer.headers is JSON else head_lines(answer.headers)
        connection = b"" if self._keep_alive else _CLOSE
        length = len(answer.body)
        transport.write(_CREATED % (lines, length, self._common_headers, connection, answer.body))
        if request.protocol.writing_paused:  # the client does not read its answers
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Gone(web.Response):
    """The response after the connection was handed over or has ended: it writes nothing."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


GONE = Gone(status=200)
LEFT = Gone(status=499, reason="Client Closed Request")
"""For the access log: nginx's status for a client that left before its answer."""


def start(request: web.Request, subscription: Subscription) -> web.StreamResponse:
    """Turn the connection of `request` into a stream.

    Raises:
        ConnectionResetError: the client has left already.
    """
    try:
        transport = _take(request)
    except BaseException:
        subscription.release()
        raise
    subscription.attach(transport, chunked=request.version >= HttpVersion11)
    return GONE


def _take(request: web.Request) -> asyncio.Transport:
    """The transport of `request`, for a new protocol; aiohttp has forgotten it."""
    transport = request.transport
    if transport is None or transport.is_closing() or getattr(request.protocol, "half_closed", False):
        raise ConnectionResetError("the client left before its stream began")
    _forget(request.protocol)
    transport.set_write_buffer_limits(high=0)  # else a small rest is never reported as sent
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    transport.resume_reading()
    return transport


def _forget(protocol: RequestHandler) -> None:
    protocol.transport = None  # else connection_lost would close it
    protocol.connection_lost(None)


def leave(request: web.Request) -> web.Response:
    """Close the connection of `request` without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return LEFT
