"""The settings of the broker that a store in Redis needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The broker's settings of the same names.

    `redis_prefix` and `redis_wait_replicas` lack their prefix here. `max_log_bytes` is `log_memory_bytes`, `max_key_bytes` is
    `idempotency_memory_bytes`. In `seen_directory`, instances on this machine keep the ids that they have seen (`seen_file`).
    """

    prefix: str
    failover_margin_ms: int
    wait_replicas: int
    max_log_bytes: int
    max_topics: int
    topic_memory_seconds: float
    idempotency_seconds: float
    max_key_bytes: int
    seen_directory: Path | None = None
