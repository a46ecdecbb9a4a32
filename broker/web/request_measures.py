"""Counts the answers to requests, by route and status, and the refusals by their reason.

Rules: a route is its template, never the path of a request. HEAD counts as GET. What no route serves counts under `NO_ROUTE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from broker.errors import BrokerError, DenialReason, Forbidden, Unauthorized
from broker.measures import Distribution
from broker.metrics import Metrics, buckets

SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0)
NO_ROUTE = "none", "none"
LAST_STATUS = 599
CLIENT_LEFT = 499
"""nginx's status for a client that left before its answer."""

_SUCCESSES = {"POST": (200, 201, 202), "GET": (200, 204), "DELETE": (204,)}
_REFUSALS = (400, 401, 403, 404, 409, 410, 413, 429, CLIENT_LEFT, 500, 503)
"""Series that exist from the start. Others, such as 405, begin with their first request."""

PUBLISHING = ("/topics/{topic}", "/topics")
PUBLISH_CODES = (
    "invalid-topic",
    "invalid-body",
    "invalid-parameter",
    "incomplete",
    "unauthorized",
    "forbidden",
    "closed",
    "cancelled",
    "out-of-order",
    "too-large",
    "rate-limited",
    "internal",
    "unavailable",
    "draining",
    "overloaded",
)
_UNAUTHORIZED_REASONS = (
    DenialReason.NO_TOKEN,
    DenialReason.MALFORMED,
    DenialReason.SIGNATURE,
    DenialReason.CLAIMS,
    DenialReason.NOT_YET_VALID,
    DenialReason.EXPIRED,
    DenialReason.REVOKED,
    DenialReason.WITHDRAWN_KEY,
    DenialReason.SEVERAL_COOKIES,
)


class RouteMeasure:
    """The answers of one route to one method.

    Attributes:
        statuses: how many answers had each status, by status: a list, because a dictionary would cost a publish 0.7 %.
        expected: statuses that have a series from the start.
        seconds: from a request's head to its answer, or to the beginning of its stream; only of those that had to wait for something.
            All others were answered at once, and `collect` counts them as such.
    """

    __slots__ = ("expected", "is_publish", "seconds", "statuses")

    def __init__(self, method: str, path: str) -> None:
        self.expected = frozenset((*_SUCCESSES.get(method, ()), *_REFUSALS))
        self.statuses = [0] * (LAST_STATUS + 1)
        self.seconds = Distribution("", "", SECONDS)
        self.is_publish = method == "POST" and path in PUBLISHING

    def answered(self, status: int, seconds: float | None) -> None:
        """Count an answer that had to wait for `seconds`; None if it was given at once."""
        self.statuses[status] += 1
        if seconds is not None:
            self.seconds.observe(seconds)

    def all_seconds(self) -> Distribution:
        """`seconds` of all answers."""
        at_once = sum(self.statuses) - self.seconds.count
        return self.seconds.with_least(at_once)


class RequestMeasures:
    """The answers of one application.

    Args:
        routes: methods and paths.

    Attributes:
        unrouted: of requests that no route serves.
    """

    def __init__(self, routes: Iterable[tuple[str, str]], metrics: Metrics) -> None:
        self._routes: Mapping[tuple[str, str], RouteMeasure] = {
            route: RouteMeasure(*route) for route in (*routes, NO_ROUTE)
        }
        self.unrouted = self._routes[NO_ROUTE]
        self._metrics = metrics
        metrics.publish_errors.declare(PUBLISH_CODES)
        metrics.ended_bodies.declare(("complete", "ended", "cut", *PUBLISH_CODES))
        metrics.denied.declare(map(_denial, DenialReason))

    def of(self, method: str, path: str) -> RouteMeasure:
        """The measure of the route with this template; `unrouted` if there is none."""
        return self._routes.get(("GET" if method == "HEAD" else method, path), self.unrouted)

    def failed(self, measure: RouteMeasure, error: Exception) -> None:
        """A handler, or a check before it, has raised `error`; `answered` is called besides."""
        if measure.is_publish:
            self._metrics.publish_errors.add(
                error.counted_as if isinstance(error, BrokerError) else "internal"
            )
        if isinstance(error, Unauthorized | Forbidden):
            self._metrics.denied.add(_denial(error.reason))

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for every scrape."""
        answers = CounterMetricFamily(
            "broker_requests",
            "Requests answered, by route and status; 499 is a client that left before its answer.",
            labels=("method", "route", "status"),
        )
        seconds = HistogramMetricFamily(
            "broker_request_seconds",
            "Seconds from a request's head to its answer, or to the beginning of its stream, by route; 0 if it was answered at once.",
            labels=("method", "route"),
        )
        for (method, path), measure in self._routes.items():
            for status, count in enumerate(measure.statuses):
                if count or status in measure.expected:
                    answers.add_metric((method, path, str(status)), count)
            every = measure.all_seconds()
            seconds.add_metric((method, path), buckets(every), every.sum)
        yield answers
        yield seconds


def _denial(reason: DenialReason) -> str:
    is_unauthorized = reason in _UNAUTHORIZED_REASONS
    return f"{int(HTTPStatus.UNAUTHORIZED if is_unauthorized else HTTPStatus.FORBIDDEN)} {reason}"
