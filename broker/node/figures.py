"""Reads the figures of one node, for `stats`.

Rules: counts nothing; every figure belongs to `metrics`, the hub or the store.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from broker.fanout.hub import Hub
from broker.measures import Counts, Distribution
from broker.metrics import Metrics
from broker.node.stats import Sample
from broker.stores.base import Store
from broker.version import installed_version

ACCESS_CODES = ("unauthorized", "forbidden")
"""Codes of refused publishes that `denied_requests` counts already."""


class StreamState(Protocol):
    """See `Streams`."""

    @property
    def hub(self) -> Hub: ...

    @property
    def is_draining(self) -> bool: ...


class NodeFigures:
    """The figures of one node; implements `stats.Figures`.

    Args:
        now: loop time.

    Attributes:
        instance: a name that no other instance has.
    """

    def __init__(
        self, metrics: Metrics, streams: StreamState, store: Store, now: Callable[[], float]
    ) -> None:
        self.instance = secrets.token_hex(6)
        self._metrics = metrics
        self._streams = streams
        self._store = store
        self._now = now
        self._started_at = now()
        self._place = f"{platform.node()}:{os.getpid()}"
        self._version = installed_version()
        self._step, self._second = Window(metrics.written), Window(metrics.written)

    def sample(self) -> Sample:
        """The figures for charts, since the last call of `sample`."""
        return self._sample(self._step)

    def all(self) -> Mapping[str, object]:
        """All figures of this instance, since the last call of `all`; a JSON object."""
        store, stats = self._store, self._store.stats
        problems = [f"{name}: {why}" for name, why in store.checks().items() if why != "ok"]
        return {
            "instance": self.instance,
            "place": self._place,
            "version": self._version,
            "uptime": round(self._now() - self._started_at, 1),
            **self._sample(self._second)._asdict(),
            "topics": stats.topics,
            "log_bytes": stats.log_bytes,
            "store": {"name": store.name, "problems": problems, "lag_ms": round(stats.lag_seconds * 1000, 2)},
            "draining": self._streams.is_draining,
        }

    def _sample(self, window: Window) -> Sample:
        metrics, hub = self._metrics, self._streams.hub
        p50_ms, p99_ms = window.quantiles_ms(0.5, 0.99)
        return Sample(
            round(self._now(), 3),
            streams=len(hub),
            published=int(metrics.published.value),
            delivered=hub.fan_out.sent.events,
            resumed=metrics.connects.values["resume"],
            gaps=_nonzero(metrics.gaps),
            closes=_nonzero(metrics.closes),
            refusals=dict(self._refusals()),
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            lag_ms=round(metrics.loop_lag_max * 1000, 2),
        )

    def _refusals(self) -> Iterator[tuple[str, int]]:
        """Refused requests by kind and reason."""
        metrics = self._metrics
        for reason, count in _nonzero(metrics.refused_connects).items():
            yield f"stream: {reason}", count
        for code, count in _nonzero(metrics.publish_errors).items():
            if code not in ACCESS_CODES:
                yield f"publish: {code}", count
        for reason, count in _nonzero(metrics.denied).items():
            yield reason, count


class Window:
    """Quantiles of the observations since the last call."""

    def __init__(self, distribution: Distribution) -> None:
        self._distribution = distribution
        self._before = list(distribution.counts)

    def quantiles_ms(self, *shares: float) -> list[float | None]:
        """The quantity, in ms, below which each share of the observations lies; None without any."""
        before, self._before = self._before, list(self._distribution.counts)
        found = [self._distribution.quantile(share, before) for share in shares]
        return [None if seconds is None else round(seconds * 1000, 3) for seconds in found]


def _nonzero(counts: Counts) -> Mapping[str, int]:
    return {value: number for value, number in counts.values.items() if number}
