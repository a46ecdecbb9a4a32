"""Bounds the spans that publishers ask for: every publisher can set the sampled flag on all of its requests.

Rules: a request over the limit is served as usual, without spans. Its events carry a `traceparent` without the flag, so that other
instances and subscribers don't record them either.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.node.buckets import TokenBuckets
from broker.traces import TraceContext


class SpanLimit:
    """A bucket for the spans of all traces that began elsewhere.

    Args:
        per_second: its inflow and its capacity; 0 lets none pass.
        clock: seconds that never decrease.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(per_second) if per_second else None
        self._clock = clock

    def admit(self, context: TraceContext) -> TraceContext:
        """`context` for one span; without the sampled flag if the limit is reached."""
        if not context.is_sampled or not context.is_foreign:
            return context
        now = self._clock()
        if self._buckets is None or self._buckets.wait("", now):
            return context.unsampled()
        self._buckets.take("", 1, now)
        return context
