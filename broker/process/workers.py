"""The pool of worker processes: starts them, and restarts those that end or hang.

Rules: each worker has a slot with its sockets. Starting a process in a slot takes the slot's lock, so a slot has one process, or
two during a rolling restart: the draining one and its successor. The supervisor handles signals and starts and ends the pool.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from broker.backoff import RestartBackoff
from broker.process.listeners import Listeners
from broker.process.merged_metrics import MergedMetrics
from broker.process.pulse import Pulse
from broker.process.setup import Endpoint, StartError
from broker.process.signals import SignalQueue
from broker.process.worker_process import WorkerKilled, WorkerProcess, describe
from broker.settings import Settings

GRACE_SECONDS = 20.0
"""Time beyond the drain, for open requests and a busy machine."""
START_ATTEMPTS = 5
"""How often a worker that is killed before it listens is started, until the broker gives up."""

_logger = logging.getLogger("broker")


class WorkerPool:
    """All workers of a supervisor, as many as `settings.workers`."""

    def __init__(self, settings: Settings, listeners: Listeners) -> None:
        slots = range(settings.workers)
        self._settings = settings.model_copy(update={"workers": 1})
        self._listeners = listeners
        self._workers: list[WorkerProcess] = []  # by slot
        self._running: set[WorkerProcess] = set()  # also those that drain after a rolling restart
        self._locks = [asyncio.Lock() for _ in slots]
        self._restart_backoffs = [RestartBackoff() for _ in slots]
        self._drain_seconds = settings.drain_notice_seconds + settings.drain_seconds + GRACE_SECONDS
        self._timeout = settings.worker_timeout_seconds
        self._metrics = MergedMetrics()
        self._merging: set[asyncio.Task[None]] = set()

    async def start(self) -> Endpoint:
        """Start all workers and return once all listen. Raises `StartError` as soon as one can't start.

        A worker that is killed meanwhile is started again, a few times.
        """
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(self._start_first(slot)) for slot in range(len(self._locks))]
        except ExceptionGroup as errors:  # Python before 3.11.4 wraps what `except*` raises
            failed, others = errors.split(StartError)
            if failed is None or others is not None:
                raise
            raise failed.exceptions[0] from None
        self._workers = [task.result()[0] for task in starting]
        return starting[0].result()[1]

    async def run(self) -> None:
        """Restart workers that end or hang, until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._timeout:
                group.create_task(self._kill_hanging())
            for slot in range(len(self._locks)):
                group.create_task(self._run_slot(slot))

    async def rolling_restart(self) -> None:
        """Replace all workers in turn: a worker drains once its successor listens. If one can't start, the rest stay."""
        for slot, lock in enumerate(self._locks):
            async with lock:
                try:
                    successor, _ = await self._start(slot)
                except StartError as error:
                    _logger.error("rolling restart stopped: %s", error)
                    return
                former, self._workers[slot] = self._workers[slot], successor
            former.drain(signal.SIGHUP)
            await self._wait_or_kill(former)
        _logger.info("rolling restart complete")

    async def drain(self, signals: SignalQueue) -> None:
        """Drain all workers together. The next SIGTERM or SIGINT ends that at once."""
        self._listeners.release()
        for worker in self._running:
            worker.drain(signal.SIGTERM)
        all_ended = asyncio.ensure_future(self._wait_for_all())
        second = asyncio.ensure_future(signals.next_termination())
        await asyncio.wait((all_ended, second), return_when=asyncio.FIRST_COMPLETED)
        if second.done():
            self._send_to_all(signal.SIGTERM)
        second.cancel()
        await all_ended

    async def kill(self) -> None:
        """End all workers without a drain, before they serve."""
        self._send_to_all(signal.SIGKILL)
        await self._wait_for_all()

    async def _start_first(self, slot: int) -> tuple[WorkerProcess, Endpoint]:
        for _ in range(START_ATTEMPTS - 1):
            try:
                return await self._start(slot)
            except WorkerKilled as error:
                _logger.error("%s; starting it again", error)
                await asyncio.sleep(self._restart_backoffs[slot].next(0.0))
        return await self._start(slot)

    async def _start(self, slot: int) -> tuple[WorkerProcess, Endpoint]:
        sockets = self._listeners.sockets(slot)
        worker = await WorkerProcess.start(self._settings_of(slot), sockets, self._merge_for)
        self._running.add(worker)
        try:
            return worker, await worker.wait_until_listening()
        except StartError:
            self._running.discard(worker)
            raise

    def _settings_of(self, slot: int) -> Settings:
        port = self._settings.metrics_port
        return self._settings if not port else self._settings.model_copy(update={"metrics_port": port + slot})

    async def _kill_hanging(self) -> None:
        """Kill workers that don't answer; `_run_slot` restarts them."""
        period = Pulse(self._timeout, 0.0).period_seconds
        while True:
            await asyncio.sleep(period)
            for worker in self._workers:
                if worker.hangs():
                    _logger.error(
                        "worker %d has not answered for %.0f seconds; killing it", worker.pid, self._timeout
                    )
                    worker.send(signal.SIGKILL)

    async def _run_slot(self, slot: int) -> None:
        while True:
            worker = self._workers[slot]
            status = await worker.wait()
            async with self._locks[slot]:
                if self._workers[slot] is worker:  # otherwise a rolling restart has replaced it
                    self._ended(worker)
                    _logger.error("worker %d ended (%s); restarting it", worker.pid, describe(status))
                    await self._restart(slot, worker.uptime_seconds)

    async def _restart(self, slot: int, uptime_seconds: float) -> None:
        while True:
            if delay := self._restart_backoffs[slot].next(uptime_seconds):
                self._listeners.replace(slot)
                await asyncio.sleep(delay)
            try:
                self._workers[slot], _ = await self._start(slot)
            except StartError as error:
                _logger.error("can't restart a worker: %s", error)
                uptime_seconds = 0.0
            else:
                _logger.info("worker %d is listening", self._workers[slot].pid)
                return

    def _send_to_all(self, number: signal.Signals) -> None:
        for worker in self._running:
            worker.send(number)

    async def _wait_for_all(self) -> None:
        await asyncio.gather(*[self._wait_or_kill(worker) for worker in self._running])

    async def _wait_or_kill(self, worker: WorkerProcess) -> None:
        try:
            async with asyncio.timeout(self._drain_seconds):
                await worker.wait()
        except TimeoutError:
            _logger.error(
                "worker %d did not end within %.0f seconds; killing it", worker.pid, self._drain_seconds
            )
            worker.send(signal.SIGKILL)
            await worker.wait()
        self._ended(worker)

    def _ended(self, worker: WorkerProcess) -> None:
        if worker in self._running:
            self._running.discard(worker)
            self._metrics.ended(worker)

    # Metrics

    def _merge_for(self, worker: WorkerProcess) -> None:
        """Send the metrics of all workers to `worker`, which was asked for them."""
        task = asyncio.create_task(self._send_merged(worker), name="metrics of all workers")
        self._merging.add(task)
        task.add_done_callback(self._merging.discard)

    async def _send_merged(self, worker: WorkerProcess) -> None:
        worker.send_merged(await self._metrics.text(self._running))
