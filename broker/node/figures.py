"""Reads the figures of one node, for `stats`.

Rules: counts nothing; every figure is somebody else's (`metrics`, the hub, the store).
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Mapping
from functools import cache

from prometheus_client import Counter

from broker.fanout.hub import Hub
from broker.metrics import Metrics
from broker.node.stats import Sample
from broker.stores.base import Store


class NodeFigures:
    """The figures of one node.

    Args:
        is_draining: whether it takes no new streams.
        now: loop time.

    Attributes:
        instance: a name that no other instance has.
    """

    def __init__(
        self,
        metrics: Metrics,
        hub: Hub,
        store: Store,
        is_draining: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self.instance = secrets.token_hex(6)
        self._metrics = metrics
        self._hub = hub
        self._store = store
        self._is_draining = is_draining
        self._now = now
        self._started_at = now()
        self._place = f"{platform.node()}:{os.getpid()}"

    def sample(self, now: float, lag_ms: float) -> Sample:
        """What charts show; `now` is loop time."""
        metrics = self._metrics
        return Sample(
            now,
            streams=len(self._hub),
            published=metrics.published.value,
            delivered=self._hub.fan_out.delivered_events,
            resumed=metrics.resumed_connects.value,
            gaps=_by_label(metrics.gaps),
            closes=_by_label(metrics.closes),
            refusals=self._refusals(),
            p50_ms=None,
            p99_ms=None,
            lag_ms=lag_ms,
        )

    def all(self, lag_ms: float) -> Mapping[str, object]:
        """Everything that is known of this instance now; a JSON object."""
        now, store, stats = self._now(), self._store, self._store.stats
        problems = [f"{name}: {why}" for name, why in store.checks().items() if why != "ok"]
        return {
            "instance": self.instance,
            "place": self._place,
            "version": installed_version(),
            "uptime": round(now - self._started_at, 1),
            **{name: value for name, value in self.sample(now, lag_ms)._asdict().items() if name != "at"},
            "topics": stats.topics,
            "log_bytes": stats.log_bytes,
            "store": {"name": store.name, "problems": problems, "lag_ms": round(stats.lag_seconds * 1000, 2)},
            "draining": self._is_draining(),
        }

    def _refusals(self) -> Mapping[str, int]:
        """Refused requests, by what was refused and why."""
        metrics = self._metrics
        return {
            f"{what} {reason}": count
            for what, counter in (
                ("stream", metrics.refused_connects),
                ("publish", metrics.refused_publishes),
                ("body", metrics.refused_bodies),
            )
            for reason, count in _by_label(counter).items()
        }


def _by_label(counter: Counter) -> Mapping[str, int]:
    (family,) = counter.collect()
    return {
        next(iter(sample.labels.values())): int(sample.value)
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


@cache
def installed_version() -> str:
    """The version of the installed package; "" if it isn't installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sse-broker")
    except PackageNotFoundError:
        return ""
