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
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from broker.web.access_log import AccessLog, redact
from broker.web.errors import problem

HALF_CLOSED_CHECK_SECONDS = 0.05
HURRY_SECONDS = 0.1  # aiohttp takes them twice, and 0 for ever
IDLE_SECONDS = (
    75  # without a request, from a connection's first moment on; longer than proxies keep idle ones
)

_log = logging.getLogger("broker")


class Runner(web.AppRunner):
    """An AppRunner whose connections answer what isn't HTTP with a problem, and don't fill the log with it.

    Bodies are not decompressed: what one inflates to is the sender's choice, and nobody else may suffer from it (I9).
    Streams need no TCP keep-alive: they have heartbeats.
    """

    async def _make_server(self) -> web.Server:
        self._kwargs |= {"auto_decompress": False, "tcp_keepalive": False, "keepalive_timeout": IDLE_SECONDS}
        self._kwargs["access_log_class"] = AccessLog
        return _Server(await super()._make_server(), self.app)

    def hurry(self) -> None:
        """Let the next `cleanup` wait for no handler: after it was broken off, or instead."""
        self._shutdown_timeout = HURRY_SECONDS


class _Server(web.Server):
    def __init__(self, server: web.Server, app: web.Application) -> None:
        self.app = app
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
        cast("_Connection", protocol).body = payload
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

    __slots__ = ("body", "half_closed")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.half_closed = False
        self.body: StreamReader | None = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """As aiohttp does; and a body that stops being HTTP half-way ends for its handler, which would wait for ever."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            body = self.body
            if body is not None and not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body is no HTTP"))
                body.feed_eof()  # else aiohttp would read on, to be rid of it

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether to stay open: who has sent whole requests gets its answers; who is in mid-body has left."""
        self.half_closed = True
        idle = self._waiter is not None and not self._waiter.done()
        last = self._messages[-1][1] if self._messages else self.body
        if (
            idle or last is None or not last.is_eof() or self.ssl_context is not None
        ):  # TLS can't be half-closed
            return False
        if self._messages:
            self._close_when_answered()
        else:
            self.close()  # after the answer that is underway
        return True

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
            _log.error("defect outside of the handlers", exc_info=exc)
            return _closing(problem("internal", "The broker has a defect here; its log says more."))
        _log.debug("not an HTTP request from %s: %s", request.remote, redact(repr(exc)))
        too_long = isinstance(exc, LineTooLong)
        detail = (
            "A request line or header is too long; 8,190 bytes are taken."
            if too_long
            else "This is not HTTP."
        )
        return _closing(problem("invalid-parameter", detail))


def _closing(response: web.Response) -> web.Response:
    response.headers[hdrs.CONNECTION] = (
        "close"  # what it can't parse aiohttp takes for HTTP/1.0, which would do without
    )
    response.force_close()
    return response
