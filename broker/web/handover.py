"""What aiohttp does not write itself: streams, whose connections leave it, and the answer that a publisher waits for.

An open stream costs 1.5 KB here and 10 KB in aiohttp (design §3). aiohttp parses the request and runs the handler; then the
transport gets a new protocol, aiohttp's own is told that its connection is gone, and the handler ends with a response that
writes nothing but gets its line in the access log.

For a `201`, aiohttp's way (prepare, headers, writer, end) costs more than the publish that it answers: 13 of 80 µs.

Rules: with `runner`, the only module that leans on what aiohttp does not document. It leans on this; each has a test:

    1  a handler's response is sent by its `prepare` and then its `write_eof`; if they write nothing, nothing is written,
       and the access log still gets its line
    2  `RequestHandler.transport = None` and `connection_lost(None)` make the server forget a connection without closing it
    3  `RequestHandler.connection_lost` leaves the transport's own state alone: the new protocol gets all further bytes
    4  reading stays paused after a peer has pipelined requests, until `resume_reading`
    5  `response.keep_alive` decides whether the connection is kept; its `_keep_alive` is None until somebody has decided
    6  `RequestHandler.writing_paused` tells of a peer that does not read, and `request.writer.drain()` waits for it
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler

from broker.web.headers import head_lines, http_date
from broker.web.subscribe import Subscription
from broker.web.values import JSON, Answer

SEND_BUFFER_BYTES = 64 << 10
"""The kernel doubles it for its own bookkeeping; unbounded it would hold megabytes for each stuck subscriber (I4)."""

_CREATED = b"HTTP/1.1 201 Created\r\n%bContent-Length: %d\r\nDate: %b\r\n%b%b\r\n%b"
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
        transport.write(
            _CREATED % (lines, length, http_date(), self._common_headers, connection, answer.body)
        )
        if (
            request.protocol.writing_paused
        ):  # the client does not read its answers, so it gets no more of them
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Gone(web.Response):
    """The response of a handler whose connection was handed over, or has ended: nothing is left to write."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


GONE = Gone(status=200)
LEFT = Gone(status=499, reason="Client Closed Request")
"""For the access log only, with nginx's status for a client that left before its answer."""


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
    subscription.attach(transport)
    return GONE


def _take(request: web.Request) -> asyncio.Transport:
    """The transport of `request`, without a protocol. It will report every rest that has been sent, and a peer that leaves."""
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
    """End the connection of `request` without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return LEFT
