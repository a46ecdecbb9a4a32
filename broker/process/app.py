"""The application: the settings, the node and the HTTP handlers, joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from time import time
from typing import TYPE_CHECKING

from aiohttp import web

from broker.auth.grants import ALL_TOPICS, FULL_ACCESS, Grant
from broker.auth.tokens import Verifier
from broker.descriptors import available_descriptors, default_max_connections
from broker.events import Clock
from broker.metrics import Metrics
from broker.node.limits import RateLimitSettings
from broker.node.node import Node
from broker.node.streams import StreamPolicy
from broker.process.span_limit import SpanLimit
from broker.process.stores import check_store, make_store
from broker.process.traced import Traced
from broker.reports import Reporter
from broker.settings import BadSetting, Settings
from broker.web.aiohttp_adapter import SERVICES, TIMEOUTS, application
from broker.web.base_path import BasePath
from broker.web.body_limits import BodyLimits
from broker.web.body_reader import BodyReader
from broker.web.client_address import ClientAddresses
from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.cors import AllowedOrigins
from broker.web.guard import Guard
from broker.web.headers import ResponseHeaders
from broker.web.identity import Authenticator
from broker.web.jwks_fetcher import JwksFetcher
from broker.web.monitoring import RequestGauges
from broker.web.producers import Producers
from broker.web.refusals import Refusals
from broker.web.request_measures import RequestMeasures
from broker.web.routes import METRICS_ROUTES, ROUTES
from broker.web.services import Services
from broker.web.unread_answers import UnreadAnswers

if TYPE_CHECKING:
    from broker.process.tracing import SdkTracer


def create_app(settings: Settings | None = None, *, clock: Clock = time) -> web.Application:
    """The broker as an aiohttp application, for programs that serve it themselves, in any of aiohttp's ways.

    `broker serve` has a server of its own (`web.front`), with limits on connections and an access log. Served by aiohttp, each
    stream costs a task and about 10 KB, requests cost about twice the CPU, and the limits of `head_seconds`,
    `keepalive_seconds` and `max_head_bytes` are aiohttp's own.

    Raises:
        BadSetting: the store does not accept `redis_url`; or `data` is set, which needs `broker serve`.
    """
    settings = settings or Settings()
    check_store(settings)
    if settings.data is not None:
        raise BadSetting("data", "only `broker serve` starts a Valkey server; give create_app a redis_url")
    verifier = _verifier(settings)
    origins = AllowedOrigins(settings.cors_origins, settings.cors_headers)
    guard = Guard(
        checks_host=not settings.has_keys(),
        allowed_hosts=settings.allowed_hosts,
        origins=origins,
        is_https=settings.tls_cert is not None and settings.unix_socket is None,
    )
    response_headers = ResponseHeaders(origins)
    tracer = _tracer(settings)
    traced = None
    if tracer is not None or settings.trace_events:
        limit = SpanLimit(settings.trace_forced_per_second)
        traced = Traced(tracer, limit, carries=settings.trace_events)
    routes = ROUTES if traced is None else traced.routes(ROUTES)
    app = application(routes, guard, response_headers, base_path=BasePath(settings.base_path))

    async def run(app: web.Application) -> AsyncIterator[None]:
        metrics = Metrics()
        node = make_node(settings, metrics, clock, traced)
        fetcher = _key_fetcher(settings, verifier, node)
        app[TIMEOUTS] = timeouts = _timeouts(settings, node)
        limits = _body_limits(settings, timeouts, metrics)
        log_addresses = ClientAddresses(settings.trusted_proxies, settings.forwarded_header)
        measures = RequestMeasures([(route.method, route.path) for route in ROUTES], metrics)
        app[SERVICES] = services = Services(
            settings,
            node,
            _authenticator(settings, node, verifier, fetcher, guard, clock),
            BodyReader(timeouts, limits),
            Producers(node, settings.producer_timeout_seconds),
            response_headers,
            UnreadAnswers(metrics, settings.max_event_bytes),
            Refusals(node.reporter, log_addresses, measures),
            log_addresses,
            measures,
        )
        metrics.registry.register(measures)
        metrics.registry.register(RequestGauges(timeouts, services.producers, limits))
        await node.start()
        async with AsyncExitStack() as stack:  # if a part fails to stop, the others stop all the same
            if tracer is not None:
                stack.push_async_callback(asyncio.to_thread, tracer.stop)
            stack.push_async_callback(node.stop)
            timeouts.start()
            stack.callback(timeouts.stop)
            services.producers.start()
            stack.push_async_callback(services.producers.stop)
            if fetcher is not None:
                fetcher.start()
                stack.push_async_callback(fetcher.stop)
            yield

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(_stop_waiting)
    return app


def metrics_app(app: web.Application) -> web.Application:
    """The application for the port of the metrics, which needs no token and any name of it serves; `app` has started."""
    services = app[SERVICES]
    guard = Guard(checks_host=False, allowed_hosts=(), origins=AllowedOrigins(()), answers_preflights=False)
    made = application(METRICS_ROUTES, guard, services.response_headers)
    made[SERVICES] = services
    made[TIMEOUTS] = app[TIMEOUTS]
    return made


def make_node(settings: Settings, metrics: Metrics, clock: Clock, traced: Traced | None = None) -> Node:
    """The node for these settings, with its store. It is not started."""
    store = make_store(settings, clock)
    if traced is not None:
        store = traced.store(store)
    reporter = Reporter(settings.log_lines_per_second)
    node = Node(store, _stream_policy(settings), metrics, clock, _rate_limits(settings), reporter)
    if traced is not None:
        traced.observe(node)
    return node


async def _stop_waiting(app: web.Application) -> None:
    """Release handlers that wait for bodies or subscribers; aiohttp waits for the handlers next."""
    app[SERVICES].bodies.stop()
    app[SERVICES].node.streams.cut()


def _tracer(settings: Settings) -> SdkTracer | None:
    """What records spans; None without a place for them."""
    if settings.trace_url is None:
        return None
    from broker.process.tracing import exporting_tracer

    return exporting_tracer(settings.trace_url, settings.trace_share)


def _verifier(settings: Settings) -> Verifier | None:
    if not settings.has_keys():
        return None
    return Verifier(settings.verification_keys(), audience=settings.jwt_audience, issuer=settings.jwt_issuer)


def _key_fetcher(settings: Settings, verifier: Verifier | None, node: Node) -> JwksFetcher | None:
    if verifier is None or settings.jwks_url is None:
        return None
    return JwksFetcher(settings.jwks_url, verifier, node.streams.evictions)


def _authenticator(
    settings: Settings,
    node: Node,
    verifier: Verifier | None,
    fetcher: JwksFetcher | None,
    guard: Guard,
    clock: Clock,
) -> Authenticator:
    return Authenticator(
        _anonymous(settings),
        verifier,
        fetcher,
        node.streams.evictions,
        guard,
        _client_addresses(settings),
        clock,
    )


def _client_addresses(settings: Settings) -> ClientAddresses | None:
    if not settings.needs_client_addresses():
        return None
    return ClientAddresses(settings.trusted_proxies, settings.forwarded_header)


def _anonymous(settings: Settings) -> Grant:
    """The grant without a token."""
    if settings.is_open():
        return FULL_ACCESS
    return Grant(
        ALL_TOPICS if "publish" in settings.anonymous else (),
        ALL_TOPICS if "subscribe" in settings.anonymous else (),
        anonymous=True,
    )


def _timeouts(settings: Settings, node: Node) -> ConnectionTimeouts:
    return ConnectionTimeouts(
        asyncio.get_running_loop(),
        node.streams,
        node.metrics,
        max_descriptors=available_descriptors(),
        head_seconds=settings.head_seconds,
        idle_seconds=settings.keepalive_seconds,
        answer_seconds=settings.slow_seconds,
        body_seconds=settings.body_seconds,
        pause_seconds=settings.stream_idle_seconds,
    )


def _body_limits(settings: Settings, timeouts: ConnectionTimeouts, metrics: Metrics) -> BodyLimits:
    return BodyLimits(
        timeouts.room,
        metrics,
        per_address=settings.max_bodies_per_address,
        per_subject=settings.max_bodies_per_subject,
    )


def _rate_limits(settings: Settings) -> RateLimitSettings:
    return RateLimitSettings(
        max_connections_per_address=settings.max_connections_per_address,
        max_connections_per_subject=settings.max_connections_per_subject,
        max_connects_per_second=settings.max_connects_per_second,
        max_connects_per_second_per_address=settings.max_connects_per_second_per_address,
        max_publishes_per_second=settings.max_publishes_per_second,
        max_publish_bytes_per_second=settings.max_publish_bytes_per_second,
    )


def _stream_policy(settings: Settings) -> StreamPolicy:
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
