"""Figures of a store for the metrics: plain values, and the measures that a store keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.measures import Count, Distributions

CALLS = ("publish", "close", "lease", "due", "delete", "describe", "read", "forget", "broadcast", "command")
"""What a shared store is called for: its scripts, and plain commands."""


class CallMeasures:
    """The calls of a shared store. The store in memory makes none.

    Attributes:
        seconds: from a call to its answer, by the call's purpose.
        retries: calls that were sent again, because the connection was lost or the server asked for time.
        failures: calls that failed: no answer in time, or an error.
    """

    def __init__(self) -> None:
        self.seconds = Distributions(
            "broker_store_call_seconds",
            "Seconds from a call of the shared store to its answer, by call.",
            ("call",),
            CALLS,
        )
        self.retries = Count(
            "broker_store_retries",
            "Calls of the shared store that were sent again: the connection was lost, or the server was busy.",
        )
        self.failures = Count(
            "broker_store_failures", "Calls of the shared store that failed: an error, or no answer in time."
        )


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Figures for the metrics.

    Attributes:
        log_limit_bytes: bound on `log_bytes`.
        topics: how many have a record here.
        connected: whether calls are answered and events delivered; always, in memory.
        connections: made so far.
        repairs: how often a watched topic was read again because events were missed.
        lag_seconds: how long the last probe took from the call to its delivery.
        memory_bytes: used by the store's server, besides this process.
        memory_limit_bytes: how much the server may use; 0 without a limit or a server.
    """

    log_bytes: int
    topics: int
    log_limit_bytes: int = 0
    connected: bool = True
    connections: int = 0
    repairs: int = 0
    lag_seconds: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    calls: CallMeasures = field(default_factory=CallMeasures)
