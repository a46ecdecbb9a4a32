"""The supervisor: starts the Valkey server and the workers, handles signals, and stops everything in order.

SIGTERM and SIGINT drain all workers together, and a second one ends the drain at once; the Valkey server stops last. SIGHUP
starts a rolling restart.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from socket import socket

from broker.process.data_directory import DataDirectory
from broker.process.listeners import Listeners
from broker.process.setup import Endpoint
from broker.process.signals import SignalQueue, may_catch_sighup
from broker.process.stores import suspect_command
from broker.process.valkey import ValkeyServer
from broker.process.workers import WorkerPool
from broker.settings import Settings

_logger = logging.getLogger("broker")


async def run(
    settings: Settings, inherited: Sequence[socket], on_listening: Callable[[Endpoint], None]
) -> None:
    """Serve until SIGTERM or SIGINT, on `inherited` sockets if there are any. Calls `on_listening` once all workers listen.

    Raises:
        StartError: something can't start; `on_listening` was not called.
    """
    signals = SignalQueue(sighup=may_catch_sighup())
    with ExitStack() as stack:
        valkey = None
        if settings.data is not None:
            directory = DataDirectory(settings.data)
            stack.callback(directory.close)
            valkey = ValkeyServer(
                directory, suspect_command(settings.redis_prefix), settings.log_memory_bytes
            )
            settings = settings.model_copy(update={"data": None, "redis_url": valkey.url})
        listeners = Listeners(settings, settings.workers, inherited)
        stack.callback(listeners.close)
        await _Supervisor(WorkerPool(settings, listeners), valkey, on_listening).run(signals)


class _Supervisor:
    def __init__(
        self, pool: WorkerPool, valkey: ValkeyServer | None, on_listening: Callable[[Endpoint], None]
    ) -> None:
        self._pool = pool
        self._valkey = valkey
        self._on_listening = on_listening
        self._is_listening = False
        self._restarting: asyncio.Task[None] | None = None

    async def run(self, signals: SignalQueue) -> None:
        serving = asyncio.create_task(self._serve(), name="workers")
        tasks = {serving}
        if self._valkey is not None:
            tasks.add(asyncio.create_task(self._valkey.run(), name="Valkey server"))
        try:
            await self._wait_for_shutdown(tasks, signals)
        finally:
            await _cancel(serving, self._restarting)
            await (self._pool.drain(signals) if self._is_listening else self._pool.kill())
            await _cancel(*tasks)  # not before: workers need their store while they drain
            if self._valkey is not None:
                await self._valkey.stop()

    async def _serve(self) -> None:
        if self._valkey is not None:
            await self._valkey.ready.wait()
        endpoint = await self._pool.start()
        self._is_listening = True
        self._on_listening(endpoint)
        await self._pool.run()

    async def _wait_for_shutdown(self, tasks: set[asyncio.Task[None]], signals: SignalQueue) -> None:
        """Return at SIGTERM or SIGINT; restart the workers at SIGHUP. Raises the error of a task that ends."""
        while True:
            received = asyncio.ensure_future(signals.next())
            await asyncio.wait((*tasks, received), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    received.cancel()
                    return task.result()
            if received.result() is not signal.SIGHUP:
                _logger.info("%s: draining all workers", received.result().name)
                return None
            self._restart_workers()

    def _restart_workers(self) -> None:
        if not self._is_listening or (self._restarting is not None and not self._restarting.done()):
            _logger.warning("SIGHUP ignored: the workers are starting already")
            return
        _logger.info("SIGHUP: rolling restart of the workers")
        self._restarting = asyncio.create_task(self._pool.rolling_restart(), name="rolling restart")
        self._restarting.add_done_callback(_log_defect)


def _log_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _logger.critical("a defect ended the %s", task.get_name(), exc_info=task.exception())


async def _cancel(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel the tasks and wait for them; `_wait_for_shutdown` raises their errors."""
    for task in tasks:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
