"""Calls the handlers from aiohttp: turns its requests into plain values, and their answers into its responses."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Handler, Middleware

from broker.errors import InvalidBody, TooLarge
from broker.web import handover, routes
from broker.web.base_path import NO_BASE_PATH, BasePath
from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.errors import error_answer, problem
from broker.web.guard import EXEMPT, Guard
from broker.web.headers import ResponseHeaders
from broker.web.routes import Route
from broker.web.services import Services
from broker.web.subscribe import Subscription
from broker.web.values import Answer, Query, Request

SERVICES = web.AppKey("services", Services)
TIMEOUTS = web.AppKey("timeouts", ConnectionTimeouts)

_NO_QUERY = Query("")


def application(
    served: Sequence[Route],
    guard: Guard,
    response_headers: ResponseHeaders,
    *,
    base_path: BasePath = NO_BASE_PATH,
    answers_preflights: bool = True,
) -> web.Application:
    """An application with these routes below `base_path`; set its `SERVICES` before the first request."""
    app = web.Application()

    async def complete(request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Add the common headers, and remove aiohttp's version."""
        headers = response.headers
        headers.popall(hdrs.SERVER, None)
        headers.update(response_headers.of(request.headers.get(hdrs.ORIGIN), headers.get(hdrs.VARY, "")))

    app.on_response_prepare.append(complete)
    app.middlewares.append(_answer_errors(app, guard, base_path, answers_preflights=answers_preflights))
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
        )
        result = await handler(services, plain)
        if isinstance(result, Subscription):
            return handover.start(request, result)
        if result.status == 201 and request.version == HttpVersion11:
            common_headers = services.response_headers.lines(request.headers.get(hdrs.ORIGIN))
            return handover.Created(result, common_headers)
        return await _send_stream(request, result) if result.is_stream else response_to(result)

    return serve


async def _send_stream(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Send a body that is a whole event stream. It has no length, so aiohttp sends it as chunks, or on HTTP/1.0 up to the close."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.closes:
        response.force_close()
    await response.prepare(request)
    await response.write(answer.body)
    await response.write_eof()
    return response


def _answer_errors(
    app: web.Application, guard: Guard, base_path: BasePath, *, answers_preflights: bool
) -> Middleware:
    """The only middleware: checks each request, and answers errors."""

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        raw_path = request.rel_url.raw_path
        path = base_path.below(raw_path)
        try:
            guard.check(request.method, path or raw_path, request.headers)
            is_options = answers_preflights and request.method == hdrs.METH_OPTIONS
            answer = guard.origins.preflight(request.headers) if is_options else None
            if answer is None and path is None:
                answer = base_path.outside(request.method, raw_path)
            response = await handler(request) if answer is None else response_to(answer)
        except web.HTTPException as error:
            response = response_to(_routing_problem(error))
        except ConnectionError:
            return handover.leave(request)  # the client has left
        except Exception as error:
            response = response_to(error_answer(error, request.method, raw_path))
        body = request.content
        if not body.is_eof() or body.exception() is not None or app[SERVICES].node.streams.is_draining:
            response.force_close()  # the rest of the body follows, or this instance is about to stop
        return response

    return answered


def _routing_problem(error: web.HTTPException) -> Answer:
    if isinstance(error, web.HTTPNotFound):
        return problem("not-found", "Nothing exists at this path; topics are at /topics/{topic}.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return problem("method-not-allowed", f"This path allows {allowed}.", headers={hdrs.ALLOW: allowed})
    raise AssertionError(f"unexpected {error.status}")


class _Body:
    """A request's body, as `values.BodySource` describes it."""

    __slots__ = ("_request",)

    def __init__(self, request: web.Request) -> None:
        self._request = request

    @property
    def length(self) -> int | None:
        return self._request.content_length

    def arrived(self) -> bytes | None:
        content = self._request.content
        if not content.is_eof():
            return None
        try:
            return content.read_nowait()
        except web.RequestPayloadError:
            raise _malformed() from None

    async def whole(self, max_bytes: int) -> bytes:
        self._request.content.set_read_chunk_size(max_bytes)  # else a large body takes many small steps
        body = bytearray()
        while piece := await self.piece():
            body += piece
            if len(body) > max_bytes:
                raise TooLarge(f"The body may have at most {max_bytes} bytes.")
        return bytes(body)

    async def piece(self) -> bytes:
        try:
            return await self._request.content.readany()
        except web.RequestPayloadError:
            raise _malformed() from None


def _malformed() -> InvalidBody:
    return InvalidBody("The body does not follow its Transfer-Encoding.")
