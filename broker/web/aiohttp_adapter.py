"""Calls the handlers from aiohttp: turns its requests into plain values, and their answers into its responses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from time import monotonic

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from broker.errors import InvalidBody
from broker.web import response_stream, routes
from broker.web.base_path import NO_BASE_PATH, BasePath
from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.guard import EXEMPT, Guard
from broker.web.headers import ResponseHeaders
from broker.web.history import LongPoll
from broker.web.request_measures import CLIENT_LEFT, RouteMeasure
from broker.web.router import Router, not_allowed
from broker.web.routes import Route
from broker.web.services import Services
from broker.web.subscribe import Subscription
from broker.web.unread_answers import SMALL_BYTES
from broker.web.values import Answer, Keep, Listener, Query, Request, content_length

SERVICES = web.AppKey("services", Services)
TIMEOUTS = web.AppKey("timeouts", ConnectionTimeouts)
ROUTER = web.AppKey("router", Router)

_NO_QUERY = Query("")
_PLAIN = web.RequestKey("plain", Request)


class _Measured:
    """Counts the answer to one request, once."""

    def __init__(self, measure: RouteMeasure) -> None:
        self._measure: RouteMeasure | None = measure
        self._began_at = monotonic()

    def answered(self, status: int) -> None:
        if self._measure is not None:
            self._measure.answered(status, monotonic() - self._began_at)
            self._measure = None


_MEASURED = web.RequestKey("measured", _Measured)


def application(
    served: Sequence[Route],
    guard: Guard,
    response_headers: ResponseHeaders,
    base_path: BasePath = NO_BASE_PATH,
) -> web.Application:
    """An application with these routes below `base_path`; set its `SERVICES` before the first request."""
    app = web.Application()
    app[ROUTER] = Router(served, guard, base_path)

    async def complete(request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Add the common headers, and remove aiohttp's version."""
        headers = response.headers
        headers.popall(hdrs.SERVER, None)
        headers.update(response_headers.of(request.headers.get(hdrs.ORIGIN), headers.get(hdrs.VARY, "")))

    app.on_response_prepare.append(complete)
    app.middlewares.append(_answer_errors(app))
    for route in served:
        path, endpoint = route.path.replace("}", ":[^/]+}"), _endpoint(app, route.handler, base_path)
        for prefix in {base_path.prefix, ""} if path in EXEMPT else (base_path.prefix,):
            if route.method == hdrs.METH_GET:
                app.router.add_get(prefix + path, endpoint)  # HEAD too
            else:
                app.router.add_route(route.method, prefix + path, endpoint)
    return app


def response_to(answer: Answer) -> web.Response:
    """aiohttp's response for `answer`."""
    response = web.Response(status=answer.status, body=answer.body or None, headers=answer.headers)
    if answer.closes:
        response.force_close()
    return response


def _endpoint(app: web.Application, handler: routes.Handler, base_path: BasePath) -> Handler:
    """`handler` as an aiohttp handler."""

    async def serve(request: web.Request) -> web.StreamResponse:
        services = app[SERVICES]
        url = request.rel_url
        query = url.raw_query_string
        path = base_path.below(url.raw_path)
        assert path is not None, "the middleware has refused it"
        plain = Request(
            request.method,
            path,
            Query(query) if query else _NO_QUERY,
            request.headers,
            request.remote or "",
            _Body(request),
            request.match_info,
            "1.0" if request.version < HttpVersion11 else "1.1",
        )
        request[_PLAIN] = plain
        result = handler(services, plain)
        if isinstance(result, Coroutine):
            result = await result
        if isinstance(result, Subscription | LongPoll):
            request[_MEASURED].answered(HTTPStatus.OK)  # now, not at its end
        if isinstance(result, Subscription):
            return await response_stream.serve(request, result, services.client(plain.headers, plain.peer))
        if isinstance(result, LongPoll):
            client = services.client(plain.headers, plain.peer)
            result = await response_stream.wait(request, result, client)
        if result.is_stream:
            return await response_stream.send(request, result)
        response = response_to(result)
        if len(result.body) > SMALL_BYTES:
            if _must_close(request, services):
                response.force_close()
            address = services.addresses.of(plain.headers, plain.peer)
            seconds = services.settings.slow_seconds
            await response_stream.send_large(request, response, services.unread_answers, address, seconds)
        return response

    return serve


def _answer_errors(app: web.Application) -> Middleware:
    """The only middleware: checks each request, and answers errors."""
    router = app[ROUTER]

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        raw_path = request.rel_url.raw_path
        services = app[SERVICES]
        measure = services.measures.of(request.method, _template(request, router.base_path))
        measured = request[_MEASURED] = _Measured(measure)
        try:
            answer = router.check(request.method, raw_path, request.rel_url.raw_query_string, request.headers)
            response = await handler(request) if answer is None else response_to(answer)
        except web.HTTPException as error:
            response = response_to(_routing_problem(error, router.base_path))
        except ConnectionError:
            response = web.Response(status=CLIENT_LEFT, reason="Client Closed Request")  # it goes nowhere
        except Exception as error:
            response = response_to(
                services.refusals.answer(
                    error,
                    request.method,
                    raw_path,
                    request.headers,
                    request.remote or "",
                    request.get(_PLAIN),
                    measure,
                )
            )
        if _must_close(request, services):
            response.force_close()
        measured.answered(response.status)
        services.node.metrics.answer_bytes.value += response.content_length or 0
        return response

    return answered


def _must_close(request: web.Request, services: Services) -> bool:
    """Whether the rest of the request's body follows, or this instance is about to stop."""
    body = request.content
    return not body.is_eof() or body.exception() is not None or services.node.streams.is_draining


def _template(request: web.Request, base_path: BasePath) -> str:
    """The template of the request's route, below the base path; "" without one."""
    resource = request.match_info.route.resource
    return "" if resource is None else (base_path.below(resource.canonical) or resource.canonical)


def _routing_problem(error: web.HTTPException, base_path: BasePath) -> Answer:
    if isinstance(error, web.HTTPNotFound):
        return base_path.not_found()
    if isinstance(error, web.HTTPMethodNotAllowed):
        return not_allowed(error.allowed_methods)
    raise AssertionError(f"unexpected {error.status}")


class _Body:
    """A request's body, as `values.BodySource` describes it."""

    __slots__ = ("_piece", "_reading", "_request")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._piece: bytes | None = None  # read, and not taken yet
        self._reading: asyncio.Task[None] | None = None

    @property
    def length(self) -> int | None:
        return content_length(self._request.headers)

    def arrived(self) -> bytes | None:
        content = self._request.content
        if not content.is_eof():
            return None
        try:
            return content.read_nowait()
        except web.RequestPayloadError:
            raise _malformed() from None

    def take(self) -> bytes | None:
        if self._piece is not None:
            piece, self._piece = self._piece, None
            return piece
        content = self._request.content
        try:
            return content.read_nowait() or (b"" if content.is_eof() else None)
        except web.RequestPayloadError:
            raise _malformed() from None

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if listener is not None:
            self._reading = asyncio.ensure_future(self._read(listener))

    def on_left(self, keep: Keep | None) -> None:
        """Never asks: aiohttp keeps what has arrived until the request ends."""

    async def _read(self, listener: Listener) -> None:
        """Read piece by piece, as long as the listener takes them."""
        is_open = True
        while is_open and self._piece is None:
            is_open = False
            with contextlib.suppress(web.RequestPayloadError, ConnectionError):  # `take` raises it
                self._piece = await self._request.content.readany()
                is_open = bool(self._piece)
            listener(None)


def _malformed() -> InvalidBody:
    return InvalidBody("The body does not follow its Transfer-Encoding.")
