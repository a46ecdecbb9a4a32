"""Serves the application: aiohttp's runner, with what its connections do where no handler runs.

Rules: with `handover`, the only place that leans on aiohttp's inside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from broker.web.access_log import AccessLog, redact
from broker.web.app_keys import WAITING
from broker.web.connection_timeouts import ConnectionTimeouts, TimeoutReason
from broker.web.errors import problem

HALF_CLOSED_CHECK_SECONDS = 0.05
LINGER_SECONDS = 2  # for who was answered within its body, so that it can read that before it is cut off
HURRY_SECONDS = 0.1  # aiohttp takes them twice, and 0 for ever

_logger = logging.getLogger("broker")


class Runner(web.AppRunner):
    """An AppRunner whose connections answer what isn't HTTP with a problem, and don't fill the log with it.

    Bodies are not decompressed: what one inflates to is the sender's choice, and nobody else may suffer from it (I9).
    Streams need no TCP keep-alive: they have heartbeats. Time-outs are those of `waiting`, without a timer a connection.
    """

    async def _make_server(self) -> web.Server:
        self._kwargs |= {"auto_decompress": False, "tcp_keepalive": False, "keepalive_timeout": 0}
        self._kwargs["lingering_time"] = LINGER_SECONDS
        self._kwargs["access_log_class"] = AccessLog
        return _Server(await super()._make_server(), self.app)

    def hurry(self) -> None:
        """Let the next `cleanup` wait for no handler: after it was broken off, or instead."""
        self._shutdown_timeout = HURRY_SECONDS


class _Server(web.Server):
    def __init__(self, server: web.Server, app: web.Application) -> None:
        self.app = app
        self.waiting = app[WAITING]
        self._handle = server.request_handler
        self._new_request: Callable[..., web.BaseRequest] = server.request_factory
        super().__init__(self._checked, request_factory=self._noted, **server._kwargs)  # noqa: SLF001

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    def _noted(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        cast("_Connection", protocol).request_came(payload)
        return self._new_request(message, payload, protocol, writer, task, _cls=_Request)

    async def _checked(self, request: web.BaseRequest) -> web.StreamResponse:
        refusal = _refusal(request)
        return await self._handle(request) if refusal is None else _closing(refusal)


class _Request(web.Request):
    """One whose answer is completed as all others are, also where no route was looked for."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if self._match_info is None:
            await cast("_Server", self.protocol._manager).app.on_response_prepare.send(self, response)  # noqa: SLF001
        else:
            await super()._prepare_hook(response)


def _refusal(request: web.BaseRequest) -> web.Response | None:
    """The answer to a request whose framing or version can't be trusted, whatever it asks for."""
    headers = request.headers
    if request._version < HttpVersion10:  # noqa: SLF001 - the answer's version is the request's
        request._version = HttpVersion10  # noqa: SLF001
        return problem("invalid-parameter", "This HTTP version isn't known here; send HTTP/1.1.")
    if headers.get(hdrs.EXPECT, "100-continue").lower() != "100-continue":
        return problem("invalid-parameter", "The only Expect that is understood is 100-continue.")
    if headers.get(hdrs.TRANSFER_ENCODING, "chunked").strip().lower() != "chunked":
        return problem("invalid-body", "The only Transfer-Encoding that is understood is chunked.")
    return None


class _Connection(RequestHandler):
    """One connection, until it is closed or handed over.

    Attributes:
        half_closed: the other side has shut down its sending side.
        body: that of the request being handled, or of the last one.
    """

    __slots__ = ("_answered", "_head_began", "_waiting", "body", "half_closed")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.half_closed = False
        self.body: StreamReader | None = None
        self._head_began = self._answered = False
        self._waiting: ConnectionTimeouts = cast("_Server", self._manager).waiting
        super().connection_made(transport)
        self._keepalive_handle = _NO_TIMER
        self._waiting.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:
            self._waiting.closed(self)
        super().connection_lost(exc)
        body, self.body = self.body, None  # each knows the other, and would wait for the cycle collector
        if body is None or self._current_request is not None:  # aiohttp has told the handler
            return
        if self._answered:
            body.feed_eof()  # else aiohttp would wait for the rest of it
        else:  # its handler is about to begin
            body.set_exception(ConnectionResetError("left before its request was handled"))

    def data_received(self, data: bytes) -> None:
        """As aiohttp does; and a body that stops being HTTP half-way ends for its handler, which would wait for ever."""
        super().data_received(data)
        if self._waiter is not None:
            self._tell_of_head(self._waiter)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            body = self.body
            if body is not None and not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body is no HTTP"))
                body.feed_eof()  # else aiohttp would read on, to be rid of it

    def _tell_of_head(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done():  # from now on it is not to be cut: aiohttp is going to handle what has come
            self._waiting.request_came(self)
        elif not self._head_began:
            self._head_began = True
            self._waiting.head_began(self)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether to stay open: who has sent whole requests gets its answers; who is in mid-body has left."""
        self.half_closed = True
        last = self._messages[-1][1] if self._messages else self.body
        if (
            self._is_idle() or last is None or not last.is_eof() or self.ssl_context is not None
        ):  # TLS can't be half-closed
            return False
        if self._messages:
            self._close_when_answered()
        else:
            self.close()  # after the answer that is underway
        return True

    def _is_idle(self) -> bool:
        """Whether no request is being handled, nor one there to be."""
        return self._waiter is not None and not self._waiter.done()

    def request_came(self, body: StreamReader) -> None:
        """It is going to be handled."""
        self.body = body
        self._head_began = self._answered = False
        self._waiting.request_came(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer. A connection that was handed over has none."""
        if self._manager is None:
            return await super().finish_response(request, resp, start_time)
        self._waiting.answer_began(self)
        finished = await super().finish_response(request, resp, start_time)
        self._answered = True
        if self._manager is not None:
            self._waiting.answered(self)
        return finished

    def cut(self, why: TimeoutReason) -> None:
        """Close; who has sent a part of a head is told why."""
        if self.transport is None:
            return
        _logger.debug("cut a connection from %s: %s", self.peername, why)
        if why is TimeoutReason.ANSWER or self.transport.get_write_buffer_size():
            self.transport.abort()  # to close would wait for a reader who doesn't read
        elif why is TimeoutReason.HEAD and self._head_began and self._is_idle():
            self._messages.append((_ErrInfo(400, _HeadTooSlow(), why), EMPTY_PAYLOAD))
            self._waiter.set_result(None)  # type: ignore[union-attr]
        else:
            self.force_close()

    def _close_when_answered(self) -> None:
        if self.transport is None:
            return
        if self._messages or self._request_in_progress:
            self._loop.call_later(HALF_CLOSED_CHECK_SECONDS, self._close_when_answered)
        else:
            self.transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer where no handler ran: the request was no HTTP, or too long."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _logger.error("defect outside of the handlers", exc_info=exc)
            return _closing(problem("internal", "The broker has a defect here; its log says more."))
        _logger.debug("not an HTTP request from %s: %s", request.remote, redact(repr(exc)))
        return _closing(problem("invalid-parameter", _DETAILS.get(type(exc), "This is not HTTP.")))


class _HeadTooSlow(Exception):
    """What a connection is told of that has not sent all of a head in time."""


_DETAILS: dict[type[BaseException | None], str] = {
    LineTooLong: "A request line or header is too long; 8,190 bytes are taken.",
    _HeadTooSlow: "The request's head was not whole in time; send it in one go.",
}


class _NoTimer(asyncio.Handle):
    """Stands where aiohttp has its timer, one a connection, so that it makes none."""

    def __init__(self) -> None:
        pass

    def cancel(self) -> None:
        pass


_NO_TIMER = _NoTimer()


def _closing(response: web.Response) -> web.Response:
    response.headers[hdrs.CONNECTION] = (
        "close"  # what it can't parse aiohttp takes for HTTP/1.0, which would do without
    )
    response.force_close()
    return response
