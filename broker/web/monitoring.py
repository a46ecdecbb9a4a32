"""Health, readiness and metrics, for operators (contract §6)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric

from broker.errors import InvalidParameter
from broker.metrics import CONTENT_TYPE
from broker.web.body_limits import BodyLimits
from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.metrics_text import text_of
from broker.web.producers import Producers
from broker.web.services import Services
from broker.web.values import Answer, Request, json_answer

ALL, OWN = "all", "own"
"""The values of `?workers=`."""
_FRESH = {"Cache-Control": "no-store"}


async def healthz(_services: Services, _request: Request) -> Answer:
    """200 while the process can answer."""
    return json_answer({"status": "ok"}, _FRESH)


async def readyz(services: Services, _request: Request) -> Answer:
    """200 while events are delivered, else 503; each check says why."""
    checks = dict(services.node.checks())
    checks["producing"] = services.producers.check
    key_fetcher = services.authenticator.key_fetcher
    if key_fetcher is not None:
        checks["keys"] = key_fetcher.check
    is_ready = all(check == "ok" for check in checks.values())
    body = {"status": "ready" if is_ready else "not ready", "checks": checks}
    return json_answer(body, _FRESH, 200 if is_ready else 503)


async def metrics(services: Services, request: Request) -> Answer:
    """The metrics in Prometheus' text format, for operators: of all workers, or with `?workers=own` of the one that answers."""
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_admin()
    return await _metrics(services, request, default=ALL)


async def metrics_of_worker(services: Services, request: Request) -> Answer:
    """The metrics without a token, on a separate port: of this worker, or with `?workers=all` of all."""
    return await _metrics(services, request, default=OWN)


async def _metrics(services: Services, request: Request, default: str) -> Answer:
    scope = request.query.get("workers") or default
    if scope not in (ALL, OWN):
        raise InvalidParameter("'workers' must be all or own.")
    metrics = services.node.metrics
    if scope == ALL and metrics.of_all_workers is not None:
        text = await metrics.of_all_workers()
    else:
        text = await text_of(metrics.registry.collect())
    return Answer(200, text, {"Content-Type": CONTENT_TYPE, **_FRESH})


class RequestGauges:
    """Reads the numbers of the web layer at every scrape."""

    def __init__(self, timeouts: ConnectionTimeouts, producers: Producers, bodies: BodyLimits) -> None:
        self._timeouts = timeouts
        self._bodies = bodies
        self._producers = producers

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("broker_streamed_bodies", "Open streamed bodies.", len(self._producers))
        yield GaugeMetricFamily(
            "broker_unwatched_bodies",
            "About how many topics with an open streamed body have no viewer on any instance.",
            self._producers.unwatched,
        )
        yield GaugeMetricFamily(
            "broker_bodies", "Request bodies that are being read or wait to be published.", self._bodies.count
        )
        yield GaugeMetricFamily(
            "broker_body_bytes",
            "Bytes of request bodies that are incomplete or wait to be published, and of such events of streamed ones.",
            self._bodies.held_bytes,
        )
        yield GaugeMetricFamily("broker_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        yield GaugeMetricFamily(
            "broker_request_connections", "Open connections that are not streams.", self._timeouts.count
        )
