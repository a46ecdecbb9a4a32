"""The front: makes the protocol of each new connection, and runs the handlers of its requests.

Under `broker serve` it serves every route. The handlers are those of `routes`, on plain values; under `create_app` alone,
aiohttp calls them instead (`aiohttp_adapter`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic, time
from types import CoroutineType
from typing import Any, cast

from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.driving import rest_of
from broker.web.front.access_log import AccessLog
from broker.web.front.answers import OK, encode
from broker.web.front.connection import HttpConnection
from broker.web.front.exchange import Exchange
from broker.web.front.head import Head, Routed, split_target
from broker.web.front.known_heads import KnownHeads
from broker.web.front.lingering import Lingering
from broker.web.front.tls_transport import TlsTransport
from broker.web.front.unread import UnreadBytes
from broker.web.front.unserved import UnservedBytes
from broker.web.history import LongPoll
from broker.web.request_measures import CLIENT_LEFT, RouteMeasure
from broker.web.router import Router
from broker.web.routes import ADMIN_PATH, Handler, Result
from broker.web.services import Services
from broker.web.values import JSON, NO_VALUES, Answer, Query, Request

_NO_QUERY = Query("")


class Front:
    """The connections of one server.

    Args:
        max_head_bytes: the limit for a request line with its headers.
        access_log: None for no log.

    Attributes:
        connections, handshakes, lingering: those that are not streams; with TLS that have not begun; that have sent their last answer.
        known_heads: those that need no parsing.
        unserved, unread: what the connections hold of requests, and of answers.
    """

    def __init__(
        self,
        services: Services,
        router: Router,
        timeouts: ConnectionTimeouts,
        *,
        max_head_bytes: int,
        access_log: AccessLog | None = None,
    ) -> None:
        self.connections: set[HttpConnection] = set()
        self.lingering: set[Lingering] = set()
        self.handshakes: set[TlsTransport] = set()
        self.timeouts = timeouts
        self.max_head_bytes = max_head_bytes
        self.known_heads = KnownHeads()
        self.unserved = UnservedBytes(services.node.metrics)
        self.unread = UnreadBytes(services.unread_answers, services.addresses, services.node.metrics)
        self.access_log = access_log
        self._services = services
        self._streams = services.node.streams
        self._response_headers = services.response_headers
        self._router = router
        self._needs_peers = access_log is not None or services.settings.needs_client_addresses()
        self._measures = services.measures
        self._answer_bytes = services.node.metrics.answer_bytes
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._emptied = asyncio.Event()

    def __call__(self, peer: str = "") -> asyncio.Protocol:
        """The protocol of a new connection; `peer` is its client's address if a proxy sent it."""
        return cast("asyncio.Protocol", HttpConnection(self, peer))

    def secured(self, context: ssl.SSLContext) -> Callable[..., asyncio.Protocol]:
        """The same for connections with TLS."""

        def connect(peer: str = "") -> asyncio.Protocol:
            return cast("asyncio.Protocol", TlsTransport(self, self(peer), context))

        return connect

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Close the connections without a request, and the others after the request in progress."""
        self._is_stopping = True
        for connection in list(self.connections):
            connection.close_if_idle()
        for handshake in list(self.handshakes):
            handshake.abort()

    async def close(self, seconds: float) -> None:
        """Wait until all connections have ended, at most for `seconds`; then abort them, and cancel their handlers."""
        self.stop()
        if self.connections or self.lingering or self.handshakes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()
        left: list[HttpConnection | Lingering] = [*self.connections, *self.lingering]
        for connection in left:
            connection.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    # For connections

    def closed(self, connection: HttpConnection | Lingering) -> None:
        self.unread.release(connection)
        if isinstance(connection, Lingering):
            self.lingering.discard(connection)
        else:
            self.connections.discard(connection)
        self._check_emptied()

    def handshake_ended(self, connection: TlsTransport) -> None:
        self.handshakes.discard(connection)
        self._check_emptied()

    def _check_emptied(self) -> None:
        if self._is_stopping and not (self.connections or self.lingering or self.handshakes):
            self._emptied.set()

    def serve(self, connection: HttpConnection, exchange: Exchange) -> None:
        """Run the handler of a request, and have the connection send its answer: now, or after the handler has waited."""
        if self._needs_peers:
            exchange.peer = connection.peer
        if self.access_log is not None:
            exchange.started_at = time()
        head = exchange.head
        if head.refusal is not None:
            self._answer(connection, exchange, head.refusal)
            return
        request: Request | None = None
        try:
            routed = head.route or self._route(head)
            handler = routed.handler
            if isinstance(handler, Answer):
                self._answer(connection, exchange, handler)
                return
            if routed.needs_peer:
                exchange.peer = connection.peer
            request = Request(
                head.method,
                routed.path,
                routed.query,
                head.headers,
                exchange.peer,
                exchange,
                routed.path_values,
                head.version,
                routed.memo,
            )
            result = handler(self._services, request)
            if isinstance(result, Answer):
                self._send(connection, exchange, result)
                if self.access_log is None:
                    routed.statuses[result.status] += 1  # as most: it costs no call
                else:
                    self._log(exchange, result.status, len(result.body))
                return
            # The first test is ten times as fast; the compiled build needs the second.
            if isinstance(result, CoroutineType) or isinstance(result, Coroutine):  # noqa: SIM101
                waited = result.send(None)
                exchange.began_at = monotonic()
                running = self._finish(connection, exchange, request, result, waited)
                self._own(self._loop.create_task(running))
                return
        except StopIteration as returned:  # the handler never waited
            result = returned.value
        except ConnectionError:
            self._leave(connection, exchange)
            return
        except Exception as error:
            result = self._refusal(error, connection, head, request)
        self._complete(connection, exchange, result)

    def _route(self, head: Head) -> Routed:
        """Find what serves requests with this head. Raises `Forbidden`; only what doesn't raise is kept."""
        path, query = split_target(head.target, head.headers)
        answer = self._router.check(head.method, path, query, head.headers)
        path = self._router.base_path.below(path) or path
        found, values = (answer, NO_VALUES) if answer is not None else self._router.find(head.method, path)
        handler: Handler | Answer
        if isinstance(found, Answer):
            handler, measure = found, self._measures.unrouted
        else:
            handler, measure = found.handler, self._measures.of(found.method, found.path)
        routed = Routed(
            handler,
            path,
            Query(query) if query else _NO_QUERY,
            values,
            measure,
            needs_peer=head.method == "DELETE" or path.startswith(ADMIN_PATH) or path.endswith("/events"),
        )
        head.route = routed
        return routed

    async def _finish(
        self,
        connection: HttpConnection,
        exchange: Exchange,
        request: Request,
        running: Coroutine[Any, Any, Result],
        waited: object,
    ) -> None:
        """Go on with a handler that waits for `waited`."""
        try:
            result = await rest_of(running, waited)
        except ConnectionError:
            self._leave(connection, exchange)
            return
        except Exception as error:
            result = self._refusal(error, connection, exchange.head, request)
        self._complete(connection, exchange, result)
        connection.resume()

    def _complete(self, connection: HttpConnection, exchange: Exchange, result: Result) -> None:
        if isinstance(result, Answer):
            self._answer(connection, exchange, result)
            return
        client = self._services.client(exchange.head.headers, connection.peer)
        transport = connection.take_transport()
        if transport is None:
            result.release()
            self._leave(connection, exchange)
            return
        if isinstance(result, LongPoll):
            result.attach(transport, partial(self._encode_last, exchange.head.origin), client)
        else:
            result.attach(transport, client, chunked=exchange.head.version == "1.1")
        protocol = cast("asyncio.Protocol", transport.get_protocol())
        if connection.is_half_closed and not protocol.eof_received():
            transport.close()
        self._log(exchange, OK, 0)

    def _answer(self, connection: HttpConnection, exchange: Exchange, answer: Answer) -> None:
        self._send(connection, exchange, answer)
        self._log(exchange, answer.status, len(answer.body))

    def _send(self, connection: HttpConnection, exchange: Exchange, answer: Answer) -> None:
        head = exchange.head
        closes = (
            answer.closes
            or not head.keeps_alive
            or not exchange.is_complete
            or self._is_stopping
            or self._streams.is_draining
        )
        vary = "" if answer.headers is JSON else answer.headers.get("Vary", "")
        common_headers = self._response_headers.lines(head.origin, vary)
        data = encode(answer, common_headers, head.method, head.version, closes=closes)
        connection.answered(exchange, data, closes=closes)
        self._answer_bytes.value += len(data)

    def _encode_last(self, origin: str | None, answer: Answer) -> bytes:
        """The answer to a long poll; the connection closes after it."""
        return encode(answer, self._response_headers.lines(origin), "GET", "1.1", closes=True)

    def _leave(self, connection: HttpConnection, exchange: Exchange) -> None:
        connection.abort()
        self._log(exchange, CLIENT_LEFT, 0)

    def _measure_of(self, head: Head) -> RouteMeasure:
        return self._measures.unrouted if head.route is None else head.route.measure

    def _log(self, exchange: Exchange, status: int, size: int) -> None:
        route = exchange.head.route
        if route is not None and not exchange.began_at:
            route.statuses[status] += 1
        else:
            waited = monotonic() - exchange.began_at if exchange.began_at else None
            self._measure_of(exchange.head).answered(status, waited)
        if self.access_log is not None:
            self.access_log.write(exchange, status, size)

    def _refusal(
        self, error: Exception, connection: HttpConnection, head: Head, request: Request | None
    ) -> Answer:
        target = head.target.decode("latin-1")
        return self._services.refusals.answer(
            error, head.method, target, head.headers, connection.peer, request, self._measure_of(head)
        )
