"""Worker processes as the supervisor sees them: one process, and the pool that restarts them.

Rules: each worker has a slot with its sockets. Starting a process in a slot takes the slot's lock, so a slot has one process, or
two during a rolling restart: the draining one and its successor. The supervisor handles signals and starts and ends the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from socket import socket

from broker.backoff import RestartBackoff
from broker.process.listeners import Listeners
from broker.process.setup import Endpoint, StartError
from broker.process.signals import SignalQueue
from broker.process.worker import WorkerConfig, decode_start
from broker.settings import Settings

START_SECONDS = 60.0
"""Limit for a start, which takes about a second; longer than the wait for an unreachable store."""
GRACE_SECONDS = 20.0
"""Time beyond the drain, for open requests and a busy machine."""

_logger = logging.getLogger("broker")


class WorkerProcess:
    """One running worker process."""

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self._process = process
        self._is_draining = False
        self._started_at = asyncio.get_running_loop().time()

    @classmethod
    async def start(cls, settings: Settings, sockets: Sequence[socket]) -> WorkerProcess:
        """Start a worker on `sockets`, then call `wait_until_listening`.

        The process has its own session, so that a terminal's signals (Ctrl-C, hang-up) reach only the supervisor.

        Raises:
            StartError: the operating system can't start another process.
        """
        descriptors = [sock.fileno() for sock in sockets]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "broker.process.worker",
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=descriptors,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"can't start a worker: {error.strerror}") from None
        assert process.stdin is not None
        process.stdin.write(WorkerConfig(settings, descriptors).encode())
        return cls(process)

    async def wait_until_listening(self) -> Endpoint:
        """Return the endpoint once the worker listens.

        Raises:
            StartError: the worker failed to start and has ended.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.wait()
            raise StartError(f"a worker did not start within {START_SECONDS:.0f} seconds") from None
        try:
            if not line:
                raise StartError("a worker failed to start; the lines above say why")
            return decode_start(line)
        except StartError:
            await self.wait()
            raise

    @property
    def uptime_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at

    def drain(self, number: signal.Signals) -> None:
        """Send SIGTERM, or SIGHUP if its successor listens already. Only once: a second signal would end the drain at once."""
        if not self._is_draining:
            self._is_draining = True
            self.send(number)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Return the exit status once the process has ended; -N for signal N."""
        return await self._process.wait()


def _environment() -> dict[str, str]:
    """This process's environment and import path, so that a worker runs the same code."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}


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

    async def start(self) -> Endpoint:
        """Start all workers and return once all listen. Raises `StartError` as soon as one can't start."""
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(self._start(slot)) for slot in range(len(self._locks))]
        except* StartError as errors:
            raise errors.exceptions[0] from None
        self._workers = [task.result()[0] for task in starting]
        return starting[0].result()[1]

    async def run(self) -> None:
        """Restart workers that end, until cancelled."""
        async with asyncio.TaskGroup() as group:
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

    async def _start(self, slot: int) -> tuple[WorkerProcess, Endpoint]:
        worker = await WorkerProcess.start(self._settings_of(slot), self._listeners.sockets(slot))
        self._running.add(worker)
        try:
            return worker, await worker.wait_until_listening()
        except StartError:
            self._running.discard(worker)
            raise

    def _settings_of(self, slot: int) -> Settings:
        port = self._settings.metrics_port
        return self._settings if not port else self._settings.model_copy(update={"metrics_port": port + slot})

    async def _run_slot(self, slot: int) -> None:
        while True:
            worker = self._workers[slot]
            status = await worker.wait()
            async with self._locks[slot]:
                if self._workers[slot] is worker:  # otherwise a rolling restart has replaced it
                    self._running.discard(worker)
                    _logger.error("worker %d ended (%s); restarting it", worker.pid, _describe(status))
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
        self._running.discard(worker)


def _describe(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
