"""The log lines about streams: one when a stream closes, one for each gap.

Rules: what a line needs is kept by the subscriber anyway, or shared by many.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

from broker.events import format_id
from broker.fanout.close_reason import CloseReason
from broker.fanout.origin import Client, Origin
from broker.fanout.subscriber import Subscriber
from broker.reports import Reporter

_WARNINGS = frozenset({CloseReason.SLOW, CloseReason.FLOOD, CloseReason.GAP})
"""An operator or the owner of the client should look at these."""
_CLOSED = "stream closed"
_origin = lru_cache(maxsize=64)(Origin)


def describe(subscriber: Subscriber, client: Client, start: str, gap: str) -> None:
    """Note how a stream began."""
    subscriber.origin = _origin(start, gap)
    subscriber.address, subscriber.request_id = client


def report_closed(reporter: Reporter, subscriber: Subscriber, reason: CloseReason, age: float) -> None:
    """The line of a stream that has closed after `age` seconds."""
    level = logging.WARNING if reason in _WARNINGS else logging.INFO
    if not reporter.admits(level, _CLOSED, reason.value):
        return
    origin = subscriber.origin
    reporter.write(
        level,
        _CLOSED,
        reason.value,
        topics=subscriber.topics,
        subject=subscriber.caller.grant.subject,
        address=subscriber.address,
        age=round(age, 3),
        events=subscriber.events,
        bytes=subscriber.bytes_written,
        start=origin.start,
        gap=origin.gap,
        cursor=format_id(subscriber.cursor),
        request_id=subscriber.request_id,
    )


def report_gap(reporter: Reporter, topics: Sequence[str], reason: str, subscribers: int) -> None:
    """The line of a gap that was reported to `subscribers` of a stream of `topics`."""
    level = logging.WARNING if reason == "lost" else logging.INFO
    reporter.report(level, "gap", reason, topics=topics, subscribers=subscribers)
