"""Runs a supervisor: starts the server and the workers, takes signals, ends everything in order.

Rules: the order of things. SIGTERM and SIGINT drain all workers at once, and a second one breaks that off; then the server is
stopped. SIGHUP renews the workers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress

from broker.process.data_directory import DataDirectory
from broker.process.listeners import Listeners
from broker.process.setup import Signals, catch, hangup_is_ours
from broker.process.valkey import Valkey
from broker.process.workers import WorkerPool
from broker.settings import Settings

_logger = logging.getLogger("broker")


async def run(settings: Settings, announce: Callable[[str, str], None]) -> None:
    """Serve until a signal. `announce` is called with the URL and the store's name, once all workers listen.

    Raises:
        StartError: before `announce` was called.
    """
    hangup = (signal.SIGHUP,) if hangup_is_ours() else ()
    signals = catch(signal.SIGTERM, signal.SIGINT, *hangup)
    with ExitStack() as stack:
        valkey = None
        if settings.data is not None:
            directory = DataDirectory(settings.data)
            stack.callback(directory.close)
            valkey = Valkey(directory)
            settings = settings.model_copy(update={"data": None, "redis_url": valkey.url})
        listeners = Listeners(settings.host, settings.port, settings.workers)
        stack.callback(listeners.close)
        await _Supervisor(WorkerPool(settings, listeners), valkey, announce).run(signals)


class _Supervisor:
    """What runs, and how far it is."""

    def __init__(self, crew: WorkerPool, valkey: Valkey | None, announce: Callable[[str, str], None]) -> None:
        self._crew = crew
        self._valkey = valkey
        self._announce = announce
        self._serves = False
        self._renewing: asyncio.Task[None] | None = None

    async def run(self, signals: Signals) -> None:
        serving = asyncio.create_task(self._serve(), name="workers")
        owned = {serving}
        if self._valkey is not None:
            owned.add(asyncio.create_task(self._valkey.run(), name="server"))
        try:
            await self._until_asked_to_end(owned, signals)
        finally:
            await _cancelled(serving, self._renewing)
            await (self._crew.end(signals) if self._serves else self._crew.kill())
            await _cancelled(*owned)  # until here whoever drains has a store
            if self._valkey is not None:
                await self._valkey.stop()

    async def _serve(self) -> None:
        """Start the workers and keep them; it only returns by an error."""
        if self._valkey is not None:
            await self._valkey.answers.wait()
        report = await self._crew.start()
        self._serves = True
        self._announce(report.url, report.store)
        await self._crew.keep()

    async def _until_asked_to_end(self, owned: set[asyncio.Task[None]], signals: Signals) -> None:
        """Renew the workers as often as asked. Raises what one of the `owned` tasks ends by."""
        while True:
            asked = asyncio.ensure_future(signals.get())
            await asyncio.wait((*owned, asked), return_when=asyncio.FIRST_COMPLETED)
            for task in owned:
                if task.done():
                    asked.cancel()
                    return task.result()
            if asked.result() is not signal.SIGHUP:
                _logger.info("%s: draining all workers", asked.result().name)
                return None
            self._renew()

    def _renew(self) -> None:
        if not self._serves or (self._renewing is not None and not self._renewing.done()):
            _logger.warning("SIGHUP: the workers are being started already")
            return
        _logger.info("SIGHUP: renewing the workers")
        self._renewing = asyncio.create_task(self._crew.renew(), name="renewal")
        self._renewing.add_done_callback(_log_defect)


def _log_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _logger.critical("the %s died", task.get_name(), exc_info=task.exception())


async def _cancelled(*tasks: asyncio.Task[None] | None) -> None:
    """Return once they have ended; what one ended by is told where it is awaited for that."""
    for task in tasks:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
