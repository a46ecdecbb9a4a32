"""The terms of a topic: how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass

from broker.topics import Retention


@dataclass(frozen=True, slots=True)
class TopicTerms:
    """For how long a topic keeps its events, and stays open.

    Attributes:
        retention: of its events; a publisher may have asked for it.
        lease_seconds: the topic closes by then unless its producer is heard of; None without a lease.
    """

    retention: Retention
    lease_seconds: float | None
