"""One instance: an application with its sockets, TLS and signals. `broker serve` runs one, and so does each worker."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Sequence

from aiohttp import web

from broker.errors import Unavailable
from broker.process.app import create_app, metrics_app
from broker.process.setup import Endpoint, StartError
from broker.process.signals import SignalQueue, may_catch_sighup
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.runner import Runner

BACKLOG = 65_535
"""Room for all clients to reconnect at once."""
RESPONSE_SECONDS = 5.0
"""How long clients may take to read open responses after the drain."""

_logger = logging.getLogger("broker")


class Instance:
    """One instance of the broker.

    Args:
        sockets: listen on these instead of `host` and `port`. A successor listens on them too, so at SIGHUP this instance
            stops accepting before it drains.

    Raises:
        StartError: the certificate or its key can't be used.
    """

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket] | None = None) -> None:
        self._settings = settings
        self._sockets = sockets
        self._tls = _tls_context(settings)
        self._app = create_app(settings)
        self._runner = Runner(
            self._app,
            access_log=logging.getLogger("broker.access") if settings.access_log else None,
            shutdown_timeout=RESPONSE_SECONDS,
        )
        self._metrics_runner: web.AppRunner | None = None
        self._signals: SignalQueue | None = None

    async def start(self) -> Endpoint:
        """Connect to the store and listen. From then on, signals are queued for `run`.

        Raises:
            StartError: an address can't be bound, or the store refuses the connection.
        """
        try:
            await self._runner.setup()
        except Unavailable as error:
            raise StartError(f"redis_url: {error.detail}") from None
        try:
            await self._listen()
            await self._listen_for_metrics()
        except BaseException:
            await self.stop()
            raise
        self._signals = SignalQueue(sighup=self._sockets is not None or may_catch_sighup())
        host, port = self._runner.addresses[0][:2]
        scheme = "https" if self._tls else "http"
        return Endpoint(
            f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", self._app[SERVICES].node.store_name
        )

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP, then drain. A second SIGTERM or SIGINT stops at once. Call `start` first."""
        assert self._signals is not None
        try:
            await self._drain_at_signal(self._signals)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Release everything, without a drain."""
        try:
            if self._metrics_runner is not None:
                await self._metrics_runner.cleanup()
        finally:
            if self._runner.server is not None:  # the shutdown didn't complete
                await self._runner.cleanup()

    async def _listen(self) -> None:
        sites: list[web.BaseSite]
        host, port = self._settings.host, self._settings.port
        if self._sockets is None:
            sites = [web.TCPSite(self._runner, host, port, ssl_context=self._tls, backlog=BACKLOG)]
        else:
            sites = [
                web.SockSite(self._runner, sock, ssl_context=self._tls, backlog=BACKLOG)
                for sock in self._sockets
            ]
        try:
            for site in sites:
                await site.start()
        except OSError as error:
            raise StartError(f"can't listen on {host} port {port}: {error.strerror}") from None

    async def _listen_for_metrics(self) -> None:
        """Listen on `metrics_port`, if set. A draining worker shares it with its successor."""
        host, port = self._settings.host, self._settings.metrics_port
        if port is None:
            return
        self._metrics_runner = Runner(metrics_app(self._app), access_log=None)
        await self._metrics_runner.setup()
        try:
            await web.TCPSite(self._metrics_runner, host, port, reuse_port=True).start()
        except OSError as error:
            raise StartError(f"metrics_port: can't listen on {host} port {port}: {error.strerror}") from None

    async def _drain_at_signal(self, signals: SignalQueue) -> None:
        first = await signals.next()
        _logger.info("%s: draining", first.name)
        if first is signal.SIGHUP and self._sockets is not None:
            for site in list(self._runner.sites):
                await site.stop()
        shutdown = asyncio.ensure_future(self._shut_down())
        second = asyncio.ensure_future(signals.next_termination())
        await asyncio.wait((shutdown, second), return_when=asyncio.FIRST_COMPLETED)
        if shutdown.done():
            second.cancel()
            shutdown.result()
        else:
            _logger.warning("second %s: stopping without waiting for the drain", second.result().name)
            self._runner.shorten_shutdown()
            shutdown.cancel()
            await asyncio.wait([shutdown])

    async def _shut_down(self) -> None:
        await self._app[SERVICES].node.streams.drain()
        await self._runner.cleanup()


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
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
