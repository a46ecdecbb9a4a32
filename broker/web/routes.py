"""Which handler serves which method and path (contract §2 to §6)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from broker.web import admin, browser_client, history, monitoring, openapi, page, publish, topic_admin, topics
from broker.web.services import Services
from broker.web.subscribe import Subscription
from broker.web.values import Answer, Request

Result = Answer | Subscription | history.LongPoll
Handler = Callable[[Services, Request], Result | Coroutine[Any, Any, Result]]
"""Returns its result at once if it can."""


@dataclass(frozen=True, slots=True)
class Route:
    """`path` may have placeholders such as `{topic}` for one segment. GET serves HEAD too."""

    method: str
    path: str
    handler: Handler


ADMIN_PATH = "/admin/"

_HEALTH = (
    Route("GET", "/healthz", monitoring.healthz),
    Route("GET", "/readyz", monitoring.readyz),
)

ROUTES: Sequence[Route] = (
    Route("POST", "/topics/{topic}", publish.publish),
    Route("POST", "/topics/{topic}/cancel", publish.cancel),
    Route("GET", "/topics/{topic}", topics.read_topic),
    Route("GET", "/topics/{topic}/events", history.read_topic_events),
    Route("DELETE", "/topics/{topic}", topics.delete_topic),
    Route("POST", "/topics", publish.publish_to_several),
    Route("GET", "/topics", topics.read_topics),
    Route("GET", "/events", history.read_events),
    Route("GET", f"{ADMIN_PATH}topics", topic_admin.busiest),
    Route("GET", f"{ADMIN_PATH}topics/{{topic}}", topic_admin.details),
    Route("GET", f"{ADMIN_PATH}request", admin.show_request),
    Route("POST", f"{ADMIN_PATH}disconnect", admin.disconnect),
    Route("POST", f"{ADMIN_PATH}revoke", admin.revoke),
    *_HEALTH,
    Route("GET", "/metrics", monitoring.metrics),
    Route("GET", "/openapi.json", openapi.document),
    Route("GET", "/", page.dashboard),
    Route("GET", "/page/{name}", page.asset),
    Route("GET", "/client.js", browser_client.client),
    Route("GET", "/client/{name}", browser_client.part),
)

METRICS_ROUTES: Sequence[Route] = (*_HEALTH, Route("GET", "/metrics", monitoring.metrics_of_worker))
"""For the port of the metrics."""
