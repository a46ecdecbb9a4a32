"""Limits for bodies, for tests of what waits for them."""

from __future__ import annotations

import asyncio

from broker.metrics import Metrics
from broker.web.body_limits import MAX_HELD_BYTES, BodyLimits
from broker.web.connection_timeouts import ConnectionTimeouts


def timeouts(metrics: Metrics, *, body: float = 60, pause: float = 60) -> ConnectionTimeouts:
    """Started `ConnectionTimeouts` with these limits, in seconds."""
    made = ConnectionTimeouts(
        asyncio.get_running_loop(),
        (),
        metrics,
        max_descriptors=1000,
        head_seconds=60,
        idle_seconds=60,
        answer_seconds=60,
        body_seconds=body,
        pause_seconds=pause,
    )
    made.start()
    return made


def body_limits(metrics: Metrics, *, room: int = 1000, max_bytes: int = MAX_HELD_BYTES) -> BodyLimits:
    """Limits with room for so many connections."""
    return BodyLimits(lambda: room, metrics, max_bytes=max_bytes)
