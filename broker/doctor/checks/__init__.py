"""The checks, each in a module of its own: a coroutine function that takes the site and returns a verdict.

Rules: a check uses topics of its own, leaves nothing open, and takes at most `target.idle_seconds` and some seconds more. It
raises `RequestFailed` if a request that should succeed does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from broker.doctor.checks import (
    base_path,
    body_duration,
    buffering,
    caching,
    chunking,
    clock,
    compression,
    cors,
    cursor,
    duration,
    ending,
    forwarded,
    gap,
    headers,
    heartbeats,
    host,
    http2,
    idle,
    reconnect,
    request_buffering,
    statuses,
    store,
    tls,
    token,
)
from broker.doctor.finding import Verdict
from broker.doctor.site import Site

Check = Callable[[Site], Awaitable[Verdict]]

CHECKS: Mapping[str, Check] = {
    "tls": tls.check,
    "http2": http2.check,
    "base-path": base_path.check,
    "host": host.check,
    "forwarded": forwarded.check,
    "shared-store": store.check,
    "buffering": buffering.check,
    "compression": compression.check,
    "chunking": chunking.check,
    "stream-headers": headers.check,
    "heartbeats": heartbeats.check,
    "idle-timeout": idle.check,
    "stream-duration": duration.check,
    "request-buffering": request_buffering.check,
    "body-duration": body_duration.check,
    "last-event-id": cursor.check,
    "reconnect": reconnect.check,
    "gap": gap.check,
    "end-of-topic": ending.check,
    "error-statuses": statuses.check,
    "authorization": token.check_header,
    "query-token": token.check_query,
    "cors": cors.check,
    "caching": caching.check,
    "clock": clock.check,
}
"""By code, in the order of a report."""

NEED_SHARED_STORE = frozenset(
    {
        "buffering",
        "compression",
        "chunking",
        "request-buffering",
        "last-event-id",
        "reconnect",
        "gap",
        "end-of-topic",
        "error-statuses",
        "query-token",
        "caching",
    }
)
"""The checks that rely, in a later request, on an event of an earlier one."""
