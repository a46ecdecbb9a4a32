"""The settings of the broker that a store in Redis needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Settings of the broker; those without `redis_` in their names here have the same names there, or are `log_memory_bytes`
    and `idempotency_memory_bytes`.
    """

    prefix: str
    failover_margin_ms: int
    wait_replicas: int
    max_log_bytes: int
    max_topics: int
    topic_memory_seconds: float
    idempotency_seconds: float
    max_key_bytes: int
