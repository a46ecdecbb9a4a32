"""Traces publishes: the request, the store's call and the fan-out are a span each.

Rules: wraps handlers, the store and the node from outside, only when the settings ask for traces; without them, nothing here runs,
and the parts know nothing of it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from broker import sse
from broker.errors import BrokerError
from broker.events import EventId
from broker.node.node import Node
from broker.process.span_limit import SpanLimit
from broker.process.traced_fanout import Admit, TracedFanOut
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt, Store, Topics
from broker.traces import Current, Span, TraceContext, Tracer, parse_traceparent
from broker.web.driving import finish
from broker.web.publish import publish, publish_to_several
from broker.web.routes import Handler, Result, Route
from broker.web.services import Services
from broker.web.values import Answer, BodySource, Listener, Request

_PUBLISHING: Sequence[Handler] = (publish, publish_to_several)
_Attributes = dict[str, str | int]


class NoTracer:
    """Records nothing; contexts are passed on all the same. Implements `Tracer`."""

    def start(self, _name: str, _kind: str, _parent: TraceContext | None, _attributes: object) -> Span | None:
        return None


class Traced:
    """The traces of one application.

    Args:
        tracer: None to record nothing.
        limit: of the spans that publishers ask for.
        carries: whether events carry the `traceparent` of their publish, and its `tracestate`.
    """

    def __init__(self, tracer: Tracer | None, limit: SpanLimit, *, carries: bool) -> None:
        self._records = tracer is not None
        self._tracer = tracer or NoTracer()
        self._admit = limit.admit if self._records else _as_it_is
        self._carries = carries
        self._current = Current()

    def routes(self, routes: Sequence[Route]) -> Sequence[Route]:
        """`routes` with a span for each publish."""
        return [
            replace(route, handler=partial(self._serve, route.handler))
            if route.handler in _PUBLISHING
            else route
            for route in routes
        ]

    def store(self, store: Store) -> Store:
        """`store` with a span for each publish."""
        topics = TracedTopics(
            store.topics, store.name, self._tracer, self._admit, self._current, carries=self._carries
        )
        return cast("Store", _TracedStore(store, topics))

    def observe(self, node: Node) -> None:
        """Record a span for each fan-out of `node`, if spans are recorded. Call it before `node` starts."""
        if self._records:
            traced = TracedFanOut(node, self._tracer, self._admit, self._current)
            node.delivered, node.delivered_at_once = traced.delivered, traced.delivered_at_once

    def _serve(self, handler: Handler, services: Services, request: Request) -> Any:
        headers = request.headers
        state = ",".join(headers.getall("tracestate")) if "tracestate" in headers else ""
        parent = parse_traceparent(headers.get("traceparent"), state)
        if parent is not None:
            parent = self._admit(parent)
        attributes: _Attributes = {
            "messaging.system": "sse-broker",
            "messaging.operation.name": "publish",
            "messaging.destination.name": request.path_values.get("topic", ""),
        }
        span = self._tracer.start("publish", "server", parent, attributes)
        context = parent if span is None else span.context
        if context is None:
            return handler(services, request)
        request.body = _TracedBody(request.body, self._current, context)
        self._current.context = context
        try:
            result = handler(services, request)
        except BaseException as error:
            _end(span, error)
            raise
        finally:
            self._current.context = None
        if isinstance(result, Coroutine):
            return self._later(result, context, span)
        _end_with(span, result)
        return result

    async def _later(
        self, running: Coroutine[Any, Any, Result], context: TraceContext, span: Span | None
    ) -> Result:
        steps = _InContext(running, self._current, context)
        try:
            try:
                waited = steps.send(None)
            except StopIteration as returned:  # it never waited
                result = cast("Result", returned.value)
            else:
                result = await finish(steps, waited)
        except BaseException as error:
            _end(span, error)
            raise
        _end_with(span, result)
        return result


def _as_it_is(context: TraceContext) -> TraceContext:
    return context


def _end(span: Span | None, error: BaseException) -> None:
    if span is not None:
        span.end(error.code if isinstance(error, BrokerError) else type(error).__name__)


def _end_with(span: Span | None, result: object) -> None:
    if span is not None:
        is_refused = isinstance(result, Answer) and result.status >= HTTPStatus.BAD_REQUEST
        span.end(str(cast("Answer", result).status) if is_refused else "")


class _InContext:
    """A coroutine whose context is the current one during each of its steps, and at no other time. Implements `driving.Steps`."""

    def __init__(self, running: Coroutine[Any, Any, Result], current: Current, context: TraceContext) -> None:
        self._running = running
        self._current = current
        self._context = context

    def send(self, value: object) -> object:
        self._current.context = self._context
        try:
            return self._running.send(value)
        finally:
            self._current.context = None

    def throw(self, error: BaseException) -> object:
        self._current.context = self._context
        try:
            return self._running.throw(error)
        finally:
            self._current.context = None


class _TracedBody:
    """A body within a trace: a streamed one is published as it arrives, by its listener."""

    def __init__(self, inner: BodySource, current: Current, context: TraceContext) -> None:
        self._inner = inner
        self._current = current
        self._context = context
        self.arrived = inner.arrived
        self.take = inner.take
        self.on_left = inner.on_left

    @property
    def length(self) -> int | None:
        return self._inner.length

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        listener = None if listener is None else partial(self._notify, listener)
        self._inner.listen(listener, coalesced=coalesced)

    def _notify(self, listener: Listener, piece: bytes | None) -> bool:
        outer, self._current.context = self._current.context, self._context
        try:
            return listener(piece)
        finally:
            self._current.context = outer


class _TracedStore:
    """`inner` with other topics."""

    def __init__(self, inner: Store, topics: TracedTopics) -> None:
        self._inner = inner
        self.topics = topics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TracedTopics:
    """Implements `stores.base.Topics`: a span for each publish within the current trace, which its events may carry."""

    def __init__(
        self, inner: Topics, store: str, tracer: Tracer, admit: Admit, current: Current, *, carries: bool
    ) -> None:
        self._inner = inner
        self._store = store
        self._tracer = tracer
        self._admit = admit
        self._current = current
        self._carries = carries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def publish(
        self,
        items: Sequence[Item],
        key: str | None = None,
        options: PublishOptions = NO_OPTIONS,
        published_at: float = 0.0,
    ) -> Receipt:
        items, span = self._begin(items)
        try:
            receipt = await self._inner.publish(items, key, options, published_at)
        except BaseException as error:
            _end(span, error)
            raise
        _end_with(span, receipt)
        return receipt

    def publish_at_once(self, topic: str, events: Sequence[bytes]) -> EventId | None:
        items, span = self._begin([(topic, lines) for lines in events])
        try:
            event_id = self._inner.publish_at_once(topic, [lines for _, lines in items])
        except BaseException as error:
            _end(span, error)
            raise
        if event_id is not None:  # else the caller goes on with `publish`, and this span is never sent
            _end_with(span, Receipt([event_id]))
        return event_id

    def _begin(self, items: Sequence[Item]) -> tuple[Sequence[Item], Span | None]:
        context = self._current.context
        if context is None:
            return items, None
        context = self._admit(context)
        attributes: _Attributes = {"messaging.batch.message_count": len(items), "store": self._store}
        span = self._tracer.start("store", "client", context, attributes)
        if self._carries:
            items = [(topic, sse.traced(lines, str(context), context.state)) for topic, lines in items]
        return items, span
