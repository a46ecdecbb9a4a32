"""One instance: it listens, says so, and serves until a signal. `broker serve` is one, and so is each of its workers.

Rules: where the application meets a process: sockets, TLS, signals. No flags; no other processes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from broker.errors import Unavailable
from broker.process.app import create_app, metrics_app
from broker.process.setup import Signals, StartError, asked_to_end, catch, hangup_is_ours
from broker.settings import Settings
from broker.web.app_keys import NODE
from broker.web.runner import Runner

BACKLOG = 65_535
ANSWER_SECONDS = 5.0  # for those who don't read their answers, once everything else is done

_logger = logging.getLogger("broker")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where an instance listens, and how its store is called."""

    url: str
    store: str


async def serve(
    settings: Settings,
    announce: Callable[[Listening], None],
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Listen, `announce` it, and serve until a signal.

    SIGTERM and SIGINT drain, and a second one breaks that off. So does SIGHUP; with `sockets` of the caller's, which a
    successor listens on already, this instance then takes no further connection.

    Raises:
        StartError: before `announce` was called.
    """
    tls = _tls(settings)
    app = create_app(settings)
    runner = Runner(
        app,
        access_log=logging.getLogger("broker.access") if settings.access_log else None,
        shutdown_timeout=ANSWER_SECONDS,
    )
    try:
        await runner.setup()
    except Unavailable as error:
        raise StartError(f"redis_url: {error.detail}") from None
    scraped: web.AppRunner | None = None
    try:
        await _listen(runner, settings, tls, sockets)
        scraped = await _listen_for_metrics(app, settings)
        signals = _catch(has_successor=sockets is not None)
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        announce(Listening(f"{'https' if tls else 'http'}://{shown}:{port}", app[NODE].store_name))
        await _stop_at_signal(runner, app[NODE].streams.drain, signals, has_successor=sockets is not None)
    finally:
        if scraped is not None:
            await scraped.cleanup()
        if runner.server is not None:  # it hasn't ended in order
            await runner.cleanup()


async def _listen(
    runner: Runner, settings: Settings, tls: ssl.SSLContext | None, sockets: Sequence[socket.socket] | None
) -> None:
    """With a backlog that a reconnect storm doesn't overflow."""
    sites: list[web.BaseSite]
    if sockets is None:
        sites = [web.TCPSite(runner, settings.host, settings.port, ssl_context=tls, backlog=BACKLOG)]
    else:
        sites = [web.SockSite(runner, sock, ssl_context=tls, backlog=BACKLOG) for sock in sockets]
    try:
        for site in sites:
            await site.start()
    except OSError as error:
        raise StartError(f"can't listen on {settings.host} port {settings.port}: {error.strerror}") from None


async def _listen_for_metrics(app: web.Application, settings: Settings) -> web.AppRunner | None:
    """The port of its own that `metrics_port` asks for; until a worker is drained it shares it with its successor."""
    if settings.metrics_port is None:
        return None
    runner = Runner(metrics_app(app), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.metrics_port, reuse_port=True).start()
    except OSError as error:
        await runner.cleanup()
        where = f"{settings.host} port {settings.metrics_port}"
        raise StartError(f"metrics_port: can't listen on {where}: {error.strerror}") from None
    return runner


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"tls_cert, tls_key: can't use {settings.tls_cert} and {settings.tls_key}: {error}"
        ) from None
    return context


def _catch(*, has_successor: bool) -> Signals:
    hangup = (signal.SIGHUP,) if has_successor or hangup_is_ours() else ()
    return catch(signal.SIGTERM, signal.SIGINT, *hangup)


async def _stop_at_signal(
    runner: Runner, drain: Callable[[], Awaitable[None]], signals: Signals, *, has_successor: bool
) -> None:
    """Wait for a signal, then drain and clean up; a second signal breaks that off, for a `cleanup` in a hurry."""
    first = await signals.get()
    _logger.info("%s: draining", first.name)
    if first is signal.SIGHUP and has_successor:
        for site in list(runner.sites):
            await site.stop()
    ending = asyncio.ensure_future(_end_in_order(runner, drain))
    again = asyncio.ensure_future(asked_to_end(signals))
    await asyncio.wait((ending, again), return_when=asyncio.FIRST_COMPLETED)
    if ending.done():
        again.cancel()
        ending.result()
    else:
        _logger.warning("%s again: ending at once", again.result().name)
        runner.hurry()
        ending.cancel()
        await asyncio.wait([ending])


async def _end_in_order(runner: Runner, drain: Callable[[], Awaitable[None]]) -> None:
    await drain()
    await runner.cleanup()
