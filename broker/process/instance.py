"""One instance: an application with its sockets, TLS and signals. `broker serve` runs one, and so does each worker."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence

from broker.errors import Unavailable
from broker.metrics import Metrics
from broker.process.app import create_app, metrics_app
from broker.process.listeners import shared_sockets
from broker.process.listening import Listening
from broker.process.setup import Endpoint, StartError
from broker.process.signals import SignalQueue, may_catch_sighup
from broker.process.tls import tls_context
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.runner import Runner

RESPONSE_SECONDS = 5.0
"""How long clients may take to read open responses after the drain."""

_logger = logging.getLogger("broker")


class Instance:
    """One instance of the broker.

    Args:
        sockets: bound; it listens on these. They stay the caller's.
        is_worker: at SIGHUP a successor listens on the same sockets, so this instance stops accepting before it drains.

    Raises:
        StartError: the certificate or its key can't be used.
    """

    def __init__(
        self, settings: Settings, sockets: Sequence[socket.socket], *, is_worker: bool = False
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._is_worker = is_worker
        self._tls = tls_context(settings)
        self._app = create_app(settings)
        self._runner = Runner(
            self._app,
            access_log=logging.getLogger("broker.access") if settings.access_log else None,
            shutdown_timeout=RESPONSE_SECONDS,
            max_head_bytes=settings.max_head_bytes,
        )
        self._listening: Listening | None = None
        self._metrics_runner: Runner | None = None
        self._metrics_listening: Listening | None = None
        self._metrics_sockets: Sequence[socket.socket] = ()
        self._signals: SignalQueue | None = None

    @property
    def metrics(self) -> Metrics:
        """Of this instance, once it has started."""
        return self._app[SERVICES].node.metrics

    async def start(self) -> Endpoint:
        """Connect to the store and listen. From then on, signals are queued for `run`.

        Raises:
            StartError: another process listens on a socket's address, or the store refuses the connection.
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
        self._signals = SignalQueue(sighup=self._is_worker or may_catch_sighup())
        return Endpoint(self._urls(), self._app[SERVICES].node.store_name)

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP, then drain. A second SIGTERM or SIGINT stops at once. Call `start` first."""
        assert self._signals is not None
        try:
            await self._drain_at_signal(self._signals)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Release everything, without a drain."""
        self._stop_accepting()
        try:
            if self._metrics_listening is not None:
                self._metrics_listening.stop()
            if self._metrics_runner is not None:
                await self._metrics_runner.cleanup()
        finally:
            for sock in self._metrics_sockets:
                sock.close()
            if self._runner.server is not None:  # the shutdown didn't complete
                await self._runner.cleanup()

    def _urls(self) -> Sequence[str]:
        scheme = "http" if self._tls is None else "https"
        urls = []
        for sock in self._sockets:
            address = sock.getsockname()
            if sock.family == socket.AF_UNIX:
                urls.append(f"unix:{address}")
            else:
                host = f"[{address[0]}]" if sock.family == socket.AF_INET6 else address[0]
                urls.append(f"{scheme}://{host}:{address[1]}{self._settings.base_path}")
        return urls

    async def _listen(self) -> None:
        settings, front = self._settings, self._runner.front
        assert front is not None
        self._listening = Listening(
            front,
            self._sockets,
            connect_securely=None if self._tls is None else front.secured(self._tls),
            trusted_proxies=settings.trusted_proxies if settings.proxy_protocol else None,
            head_seconds=settings.head_seconds,
        )
        await self._listening.start()

    def _stop_accepting(self) -> None:
        if self._listening is not None:
            self._listening.stop()

    async def _listen_for_metrics(self) -> None:
        """Listen on `metrics_port`, if set. A draining worker shares it with its successor."""
        port = self._settings.metrics_port
        if port is None:
            return
        self._metrics_runner = Runner(metrics_app(self._app), access_log=None)
        await self._metrics_runner.setup()
        front = self._metrics_runner.front
        assert front is not None
        try:
            self._metrics_sockets = shared_sockets(self._settings.metrics_hosts(), port)
            self._metrics_listening = Listening(
                front, self._metrics_sockets, trusted_proxies=None, head_seconds=self._settings.head_seconds
            )
            await self._metrics_listening.start()
        except StartError as error:
            raise StartError(f"metrics_port: {error}") from None

    async def _drain_at_signal(self, signals: SignalQueue) -> None:
        first = await signals.next()
        _logger.info("%s: draining", first.name)
        if first is signal.SIGHUP and self._is_worker:
            self._stop_accepting()
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
        self._stop_accepting()
        await self._runner.cleanup()
