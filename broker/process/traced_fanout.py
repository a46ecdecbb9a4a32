"""Puts a span around each fan-out of a traced publish.

Rules: see `traced`, which wraps the rest of a publish.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from broker.events import EventId
from broker.node.node import Node
from broker.traces import Current, Span, TraceContext, Tracer, parse_traceparent

MAX_FANOUTS = 256
"""Fan-outs that are traced at the same time."""
FANOUT_SECONDS = 30.0
CHECK_SECONDS = 0.001
CHECK_SHARE = 0.05
"""Of the time, for checks whether fan-outs are complete; then fewer of them."""
_Attributes = dict[str, str | int]
Admit = Callable[[TraceContext], TraceContext]
"""Takes the sampled flag off a context if there are too many; see `SpanLimit`."""


@dataclass(frozen=True, slots=True)
class _FanOutSpan:
    """A fan-out until all subscribers that don't lag have `event_id`."""

    span: Span
    topic: str
    event_id: EventId
    deadline: float


class TracedFanOut:
    """Spans from the delivery of events until they were written."""

    def __init__(self, node: Node, tracer: Tracer, admit: Admit, current: Current) -> None:
        self._delivered, self._delivered_at_once = node.delivered, node.delivered_at_once
        self._feeds = node.streams.hub.feeds
        self._tracer = tracer
        self._admit = admit
        self._current = current
        self._loop = asyncio.get_running_loop()
        self._open: deque[_FanOutSpan] = deque()

    def delivered(self, topic: str, size: int, published_at: float = 0.0) -> bool:
        """See `stores.base.StoreOwner.delivered`."""
        if size:
            self._begin(topic, size)
        return self._delivered(topic, size, published_at)

    def delivered_at_once(self, topic: str, size: int) -> bool:
        """See `stores.base.StoreOwner.delivered_at_once`."""
        self._begin(topic, size)
        return self._delivered_at_once(topic, size)

    def _begin(self, topic: str, size: int) -> None:
        event_id, traces = self._feeds.newest_traces(topic, size)
        current = self._current.context
        parents = [self._parent(trace, current) for trace in traces] or [current]
        attributes: _Attributes = {
            "messaging.destination.name": topic,
            "subscribers": self._feeds.count(topic),
        }
        for parent in parents:
            if not event_id or parent is None or len(self._open) >= MAX_FANOUTS:
                continue
            span = self._tracer.start("fan-out", "producer", self._admit(parent), attributes)
            if span is None:
                continue
            if not self._open:
                self._loop.call_soon(self._check)
            self._open.append(_FanOutSpan(span, topic, event_id, self._loop.time() + FANOUT_SECONDS))

    def _parent(self, trace: str, current: TraceContext | None) -> TraceContext | None:
        """The context that an event carries; that of the publish itself if it runs right now."""
        return current if current is not None and str(current) == trace else parse_traceparent(trace)

    def _check(self) -> None:
        """End the spans of events that are written.

        A topic may have as many feeds as subscribers, so they are visited once for all its spans.
        """
        now, began_at = self._loop.time(), perf_counter()
        written: dict[str, EventId | None] = {}
        for _ in range(len(self._open)):
            one = self._open.popleft()
            if one.topic not in written:
                written[one.topic] = self._feeds.written_to(one.topic)
            written_to = written[one.topic]
            if written_to is None or written_to >= one.event_id:
                one.span.end()
            elif now > one.deadline:
                one.span.end("timeout")
            else:
                self._open.append(one)
        if self._open:
            took = perf_counter() - began_at
            self._loop.call_later(max(CHECK_SECONDS, took / CHECK_SHARE), self._check)
