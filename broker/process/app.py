"""The application: routes, middlewares, start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import monotonic, time

from aiohttp import web
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.auth.grants import ALL_TOPICS, FULL_ACCESS, Grant
from broker.auth.tokens import Verifier
from broker.descriptors import available_descriptors, default_max_connections
from broker.events import Clock
from broker.hosts import is_loopback
from broker.metrics import Metrics
from broker.node.limits import RateLimitSettings
from broker.node.node import Node
from broker.node.streams import StreamPolicy
from broker.process.check_store import check_store
from broker.settings import BadSetting, Settings
from broker.stores.base import Store
from broker.stores.memory import MemoryStore
from broker.web import admin, monitoring, page, publish, topics
from broker.web.app_keys import BODIES, HEADERS, NODE, PRODUCING, SETTINGS, WAITING
from broker.web.body_reader import BodyReader
from broker.web.client_address import ClientAddresses
from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.cors import AllowedOrigins, preflights
from broker.web.errors import errors_to_answers
from broker.web.guard import guard
from broker.web.headers import ResponseHeaders
from broker.web.identity import ACCESS, Authenticator
from broker.web.jwks import KeySet
from broker.web.producers import Producers

IDLE_SECONDS = 75.0  # between two requests on a connection; longer than proxies keep idle ones


def create_app(settings: Settings | None = None, *, clock: Clock = time) -> web.Application:
    """The broker as an aiohttp application, to be served by `web.runner.Runner`, or by any of aiohttp's ways.

    Raises:
        BadSetting: a setting is none for the store that it chooses, or `data` is set: an application starts no server of its
            own, `broker serve` does.
    """
    settings = settings or Settings()
    check_store(settings)
    if settings.data is not None:
        raise BadSetting("data", "only `broker serve` runs a server there; give create_app a redis_url")
    origins = AllowedOrigins(settings.cors_origins)
    app = web.Application(
        middlewares=[
            errors_to_answers,
            guard(
                loopback_only=settings.is_open(),
                allowed_hosts=settings.allowed_hosts,
                origins=origins,
            ),
            preflights(origins),
        ],
        client_max_size=settings.max_event_bytes,
    )
    app[SETTINGS] = settings
    metrics = Metrics()
    app[BODIES] = BodyReader(
        lambda why: metrics.cut_requests.labels(why).inc(),
        body_seconds=settings.body_seconds,
        stream_idle_seconds=settings.stream_idle_seconds,
    )
    app[ACCESS] = access = _access(settings, origins, clock)
    app[HEADERS] = headers = ResponseHeaders(origins)
    app.on_response_prepare.append(headers.complete)

    async def run_node(app: web.Application) -> AsyncIterator[None]:
        app[NODE] = node = Node(
            _store(settings, clock), _limits(settings), metrics, clock, _allowances(settings)
        )
        app[WAITING] = waiting = _waiting(settings, node)
        app[PRODUCING] = producing = Producers(node, settings.producer_timeout_seconds)
        metrics.registry.register(_RequestGauges(waiting, producing))
        await node.start()
        waiting.start()
        producing.start()
        yield
        await producing.stop()
        waiting.stop()
        await node.stop()

    async def run_key_set(_app: web.Application) -> AsyncIterator[None]:
        if access.key_set is not None:
            await access.key_set.start()
        yield
        if access.key_set is not None:
            await access.key_set.stop()

    app.cleanup_ctx.append(run_node)
    app.cleanup_ctx.append(run_key_set)
    app.on_shutdown.append(_let_nobody_wait)
    add_routes(app.router)
    return app


def metrics_app(app: web.Application) -> web.Application:
    """What the port for metrics serves, of `app`, which has started: no topics, and nobody is asked for a token.

    On a loopback address that port is open to this machine, so that the rule of contract §5 on Host holds there, keys or not.
    """
    settings = app[SETTINGS]
    guarded = guard(
        loopback_only=is_loopback(settings.host),
        allowed_hosts=settings.allowed_hosts,
        origins=AllowedOrigins(()),
    )
    scraped = web.Application(middlewares=[errors_to_answers, guarded])
    for key in (NODE, ACCESS, HEADERS, WAITING, PRODUCING):
        scraped[key] = app[key]  # type: ignore[misc]
    scraped.on_response_prepare.append(app[HEADERS].complete)
    scraped.router.add_get("/metrics", monitoring.metrics_for_all)
    scraped.router.add_get("/healthz", monitoring.healthz)
    scraped.router.add_get("/readyz", monitoring.readyz)
    return scraped


async def _let_nobody_wait(app: web.Application) -> None:
    """Before aiohttp waits for the handlers: none is to wait for a body, or at the gate for a subscriber to read."""
    app[BODIES].stop()
    app[NODE].streams.cut()


def add_routes(router: web.UrlDispatcher) -> None:
    """All routes of contract §2 to §6."""
    router.add_post("/topics/{topic:[^/]+}", publish.publish)
    router.add_post("/topics/{topic:[^/]+}/cancel", publish.cancel)
    router.add_get("/topics/{topic:[^/]+}", topics.topic)
    router.add_delete("/topics/{topic:[^/]+}", topics.delete)
    router.add_post("/topics", publish.publish_to_many)
    router.add_get("/topics", topics.topics)
    router.add_post("/admin/disconnect", admin.disconnect)
    router.add_post("/admin/revoke", admin.revoke)
    router.add_get("/healthz", monitoring.healthz)
    router.add_get("/readyz", monitoring.readyz)
    router.add_get("/metrics", monitoring.metrics)
    router.add_get("/", page.index)
    router.add_get("/page/{name}", page.asset)


def _access(settings: Settings, origins: AllowedOrigins, clock: Clock) -> Authenticator:
    addresses = (
        ClientAddresses(settings.trusted_proxies, settings.forwarded_header)
        if settings.needs_client_addresses()
        else None
    )
    verifier, key_set = None, None
    if settings.has_keys():
        verifier = Verifier(
            settings.verification_keys(), audience=settings.jwt_audience, issuer=settings.jwt_issuer
        )
    if verifier is not None and settings.jwks_url is not None:
        key_set = KeySet(settings.jwks_url, verifier.set_fetched_keys, monotonic)
    return Authenticator(_anonymous(settings), verifier, key_set, origins, addresses, clock)


def _anonymous(settings: Settings) -> Grant:
    """What may be done without a token."""
    if settings.is_open():
        return FULL_ACCESS
    return Grant(
        ALL_TOPICS if "publish" in settings.anonymous else (),
        ALL_TOPICS if "subscribe" in settings.anonymous else (),
        anonymous=True,
    )


class _RequestGauges(Collector):
    """Reads, at every scrape, the numbers that the web layer keeps."""

    def __init__(self, timeouts: ConnectionTimeouts, producers: Producers) -> None:
        self._timeouts = timeouts
        self._producers = producers

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("broker_streamed_bodies", "Open streamed bodies.", len(self._producers))
        yield GaugeMetricFamily(
            "broker_request_connections", "Open connections that are not streams.", self._timeouts.count
        )


def _waiting(settings: Settings, node: Node) -> ConnectionTimeouts:
    descriptors = available_descriptors()
    return ConnectionTimeouts(
        asyncio.get_running_loop(),
        room=lambda: descriptors - len(node.streams),
        on_cut=lambda why: node.metrics.cut_requests.labels(why).inc(),
        head_seconds=settings.head_seconds,
        idle_seconds=IDLE_SECONDS,
        answer_seconds=settings.slow_seconds,
    )


def _store(settings: Settings, clock: Clock) -> Store:
    if settings.redis_url is not None:
        return _redis(settings, settings.redis_url, clock)
    return MemoryStore(
        settings.retention(),
        clock=clock,
        max_log_bytes=settings.log_memory_bytes,
        max_topics=settings.max_topics,
        topic_memory_seconds=settings.topic_memory_seconds,
        idempotency_seconds=settings.idempotency_seconds,
        max_key_bytes=settings.idempotency_memory_bytes,
    )


def _redis(settings: Settings, url: str, clock: Clock) -> Store:
    from broker.stores.redis import address, options, store

    store_options = options.StoreOptions(
        prefix=settings.redis_prefix,
        failover_margin_ms=settings.failover_margin_ms,
        wait_replicas=settings.redis_wait_replicas,
        max_log_bytes=settings.log_memory_bytes,
        max_topics=settings.max_topics,
        topic_memory_seconds=settings.topic_memory_seconds,
        idempotency_seconds=settings.idempotency_seconds,
        max_key_bytes=settings.idempotency_memory_bytes,
    )
    return store.RedisStore(address.parse(url), settings.retention(), store_options, clock=clock)


def _allowances(settings: Settings) -> RateLimitSettings:
    return RateLimitSettings(
        max_connections_per_address=settings.max_connections_per_address,
        max_connections_per_subject=settings.max_connections_per_subject,
        max_connects_per_second=settings.max_connects_per_second,
        max_publishes_per_second=settings.max_publishes_per_second,
        max_publish_bytes_per_second=settings.max_publish_bytes_per_second,
    )


def _limits(settings: Settings) -> StreamPolicy:
    return StreamPolicy(
        max_connections=settings.max_connections or default_max_connections(),
        heartbeat_seconds=settings.heartbeat_seconds,
        slow_seconds=settings.slow_seconds,
        retry_min_ms=settings.retry_min_ms,
        retry_max_ms=settings.retry_max_ms,
        drain_notice_seconds=settings.drain_notice_seconds,
        drain_seconds=settings.drain_seconds,
        max_age_seconds=settings.max_age_seconds,
        revocation_seconds=settings.revocation_seconds,
    )
