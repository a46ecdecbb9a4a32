"""aiohttp's runner, with connections that time out and answer malformed requests.

Rules: besides `handover`, the only module that uses undocumented parts of aiohttp. These, each with a test:

    1  `AppRunner._make_server` makes the server from `_kwargs`; `cleanup` reads `_shutdown_timeout`
    2  `Server.__call__` makes a `RequestHandler` for a connection from `_kwargs`; `request_factory` makes each `Request`
       (of class `_cls`) before its handler runs
    3  `Request._prepare_hook` completes every response; `_match_info` is None before routing; `_version` is the answer's
    4  `RequestHandler._waiter` is the future that an idle connection waits for; `_messages` are requests that have arrived,
       with an `_ErrInfo` for malformed ones; `_request_in_progress` and `_current_request` are set while a handler runs;
       `_manager` is None after `connection_lost`
    5  `RequestHandler._keepalive_handle` is the idle timer, made only if it is None
    6  `RequestHandler.finish_response` sends every response; `handle_error` makes the response to a malformed request
    7  `AccessLogger._format_line` gives all values of a line
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_log import AccessLogger
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from broker.web.aiohttp_adapter import TIMEOUTS, response_to
from broker.web.connection_timeouts import ConnectionTimeouts, TimeoutReason
from broker.web.errors import DEFECT, problem
from broker.web.redaction import redact

HALF_CLOSED_CHECK_SECONDS = 0.05
LINGER_SECONDS = 2  # a client that is still sending its body may read the answer for so long
SHORT_SHUTDOWN_SECONDS = 0.1  # aiohttp waits for it twice, and takes 0 for no limit

_logger = logging.getLogger("broker")


class Runner(web.AppRunner):
    """An AppRunner that answers malformed requests with a problem and logs no traceback for them.

    Bodies are not decompressed: a small one could inflate to any size (I9). Heartbeats replace TCP keep-alive.
    `ConnectionTimeouts` has one timer for all connections.
    """

    async def _make_server(self) -> web.Server:
        self._kwargs |= {"auto_decompress": False, "tcp_keepalive": False, "keepalive_timeout": 0}
        self._kwargs["lingering_time"] = LINGER_SECONDS
        self._kwargs["access_log_class"] = _AccessLog
        return _Server(await super()._make_server(), self.app)

    def shorten_shutdown(self) -> None:
        """Make the next `cleanup` wait for handlers only for a moment."""
        self._shutdown_timeout = SHORT_SHUTDOWN_SECONDS


class _AccessLog(AccessLogger):
    """The combined log format, without tokens."""

    def _format_line(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float
    ) -> Iterable[tuple[str | tuple[str, str], str]]:
        for key, value in super()._format_line(request, response, time):
            yield key, redact(value) if isinstance(value, str) else value


class _Server(web.Server):
    def __init__(self, server: web.Server, app: web.Application) -> None:
        self.app = app
        self.timeouts = app[TIMEOUTS]
        self._handle = server.request_handler
        self._new_request: Callable[..., web.BaseRequest] = server.request_factory
        super().__init__(self._check_and_handle, request_factory=self._make_request, **server._kwargs)  # noqa: SLF001

    def __call__(self, peer: str = "") -> RequestHandler:
        connection = _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)
        connection.peer = peer
        return connection

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        cast("_Connection", protocol).request_started(payload)
        return self._new_request(message, payload, protocol, writer, task, _cls=_Request)

    def _check_and_handle(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        headers = request.headers
        version = request._version  # noqa: SLF001 - reading `version` would cache it for the answer
        if version < HttpVersion10 or hdrs.EXPECT in headers or hdrs.TRANSFER_ENCODING in headers:
            return self._handle_unusual(request)
        return self._handle(request)

    async def _handle_unusual(self, request: web.BaseRequest) -> web.StreamResponse:
        refusal = _refusal(request)
        return await self._handle(request) if refusal is None else refusal


class _Request(web.Request):
    """A request whose response gets the common headers even before routing, and that knows the address in a PROXY header."""

    @property
    def remote(self) -> str | None:
        return cast("_Connection", self.protocol).peer or super().remote

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if self._match_info is None:
            await cast("_Server", self.protocol._manager).app.on_response_prepare.send(self, response)  # noqa: SLF001
        else:
            await super()._prepare_hook(response)


def _refusal(request: web.BaseRequest) -> web.Response | None:
    """The answer to a request with an unsupported version or framing; else None."""
    headers = request.headers
    if request._version < HttpVersion10:  # noqa: SLF001 - the answer's version is the request's
        request._version = HttpVersion10  # noqa: SLF001
        return _closing("invalid-parameter", "This HTTP version is not supported; send HTTP/1.1.")
    if headers.get(hdrs.EXPECT, "100-continue").lower() != "100-continue":
        return _closing("invalid-parameter", "The only Expect that is supported is 100-continue.")
    if headers.get(hdrs.TRANSFER_ENCODING, "chunked").strip().lower() != "chunked":
        return _closing("invalid-body", "The only Transfer-Encoding that is supported is chunked.")
    return None


class _Connection(RequestHandler):
    """One connection, until it is closed or handed over.

    Attributes:
        half_closed: the client has shut down its sending side.
        body: the body of the request that is being handled, or of the last one.
        peer: the client's address, if a PROXY header named it; else "".
    """

    __slots__ = (
        "_is_answered",
        "_is_head_complete",
        "_is_head_started",
        "_timeouts",
        "body",
        "half_closed",
        "peer",
    )

    peer: str

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.half_closed = False
        self.body: StreamReader | None = None
        self._is_head_started = self._is_head_complete = self._is_answered = False
        self._timeouts: ConnectionTimeouts = cast("_Server", self._manager).timeouts
        super().connection_made(transport)
        self._keepalive_handle = _NO_TIMER
        self._timeouts.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:
            self._timeouts.closed(self)
        super().connection_lost(exc)
        body, self.body = self.body, None  # this breaks a reference cycle
        if body is None or self._current_request is not None:  # aiohttp reports the loss to the handler
            return
        if self._is_answered:
            body.feed_eof()  # else aiohttp waits for the rest
        else:  # its handler is about to begin
            body.set_exception(ConnectionResetError("the client left before its request was handled"))

    def data_received(self, data: bytes) -> None:
        """Receive as aiohttp does; also fail a body that becomes malformed, else its handler would wait forever."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is not None:
            if waiter.done():  # its handler is about to run, so it must not time out
                self._is_head_complete = True
                self._timeouts.head_complete(self)
            elif not self._is_head_started:
                self._is_head_started = True
                self._timeouts.head_started(self)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            body = self.body
            if body is not None and not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body is not HTTP"))
                body.feed_eof()  # else aiohttp reads on to discard it

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Returns whether to stay open, to answer complete requests; an incomplete body is given up."""
        self.half_closed = True
        last = self._messages[-1][1] if self._messages else self.body
        is_tls = self.ssl_context is not None  # which can't be half-closed
        if self._is_idle() or last is None or not last.is_eof() or is_tls:
            return False
        if self._messages:
            self._close_when_answered()
        else:
            self.close()  # after the answer in progress
        return True

    def _is_idle(self) -> bool:
        """Whether no request has arrived."""
        return self._waiter is not None and not self._waiter.done()

    def request_started(self, body: StreamReader) -> None:
        """A request with this body is about to be handled."""
        self.body = body
        if not self._is_head_complete:  # the request came while another one was handled
            self._timeouts.head_complete(self)
        self._is_head_started = self._is_head_complete = self._is_answered = False

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As aiohttp does, with a time-out, unless the connection was handed over."""
        if self._manager is None:
            return await super().finish_response(request, resp, start_time)
        self._timeouts.answer_started(self)
        finished = await super().finish_response(request, resp, start_time)
        self._is_answered = True
        if self._manager is not None:
            self._timeouts.answer_sent(self)
        return finished

    def time_out(self, reason: TimeoutReason) -> None:
        """Close the connection, with an answer if part of a head has arrived."""
        if self.transport is None:
            return
        _logger.debug("closing a connection from %s: time-out %s", self.peername, reason)
        if reason is TimeoutReason.ANSWER or self.transport.get_write_buffer_size():
            self.transport.abort()  # close waits for the client to read
        elif reason is TimeoutReason.HEAD and self._is_head_started and self._is_idle():
            self._messages.append((_ErrInfo(400, _HeadTooSlow(), reason), EMPTY_PAYLOAD))
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
        """The answer if no handler ran: the head was malformed, too long or too slow."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _logger.error("defect outside the handlers", exc_info=exc)
            return _closing("internal", DEFECT)
        _logger.debug("not an HTTP request from %s: %s", request.remote, redact(repr(exc)))
        return _closing("invalid-parameter", _DETAILS.get(type(exc), "This is not HTTP."))


class _HeadTooSlow(Exception):
    """Takes the place of a parser's error if a head is too slow."""


_DETAILS: dict[type[BaseException | None], str] = {
    LineTooLong: "A request line or header is too long; --max-head-bytes sets how many bytes are accepted.",
    _HeadTooSlow: "The request's head did not arrive in time; send it at once.",
}


class _NoTimer(asyncio.Handle):
    """Takes the place of aiohttp's idle timer."""

    def __init__(self) -> None:
        pass

    def cancel(self) -> None:
        pass


_NO_TIMER = _NoTimer()


def _closing(code: str, detail: str) -> web.Response:
    """A problem that ends the connection."""
    response = response_to(problem(code, detail))
    # For a malformed request aiohttp assumes HTTP/1.0 and omits this header.
    response.headers[hdrs.CONNECTION] = "close"
    response.force_close()
    return response
