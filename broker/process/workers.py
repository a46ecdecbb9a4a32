"""The workers of one supervisor: there are always as many as asked for, whoever dies or is renewed.

Rules: one slot a worker, with its sockets; whoever starts something in a slot holds its lock, so that there is one worker in
it, or for the length of a renewal two. Signals and the order of ending are `run`'s business.

One worker process, as its supervisor sees it.

Rules: start it, hear its report, signal it, await its end. Who is replaced, and when, is `crew`'s business.
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

from broker.process.listeners import Listeners
from broker.process.restarts import Restarts
from broker.process.setup import Signals, StartError, asked_to_end
from broker.process.worker_protocol import Orders, Report
from broker.settings import Settings

START_SECONDS = 60.0
"""A bound on what takes less than one: more than a store that can't be reached is waited for."""


class WorkerProcess:
    """A running worker.

    Attributes:
        is_leaving: it was told to drain.
    """

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self.is_leaving = False
        self._process = process
        self._started = asyncio.get_running_loop().time()

    @classmethod
    async def start(cls, settings: Settings, sockets: Sequence[socket]) -> WorkerProcess:
        """Start one; `listening` tells what becomes of it.

        It has a session of its own: what a terminal sends to all that run in it (Ctrl-C, the hang-up) is for the supervisor.

        Raises:
            StartError: the machine has no room for another process.
        """
        numbers = [sock.fileno() for sock in sockets]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "broker.process.worker",
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=numbers,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"a worker can't be started: {error.strerror}") from None
        assert process.stdin is not None
        process.stdin.write(Orders(settings, numbers).encode())
        return cls(process)

    async def listening(self) -> Report:
        """Return once it listens.

        Raises:
            StartError: it can't, and has ended.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.ended()
            raise StartError(f"a worker did not start within {START_SECONDS:.0f} s") from None
        report = (
            Report.decode(line) if line else Report(error="a worker failed before it listened; see above")
        )
        if report.error:
            await self.ended()
            raise StartError(report.error)
        return report

    @property
    def lived_seconds(self) -> float:
        """How long ago it was started."""
        return asyncio.get_running_loop().time() - self._started

    def leave(self, number: signal.Signals) -> None:
        """Have it drain by SIGTERM, or by SIGHUP where its successor listens already; once, for a second signal breaks it off."""
        if not self.is_leaving:
            self.is_leaving = True
            self.send(number)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has ended; negative is a signal."""
        return await self._process.wait()


def _environment() -> dict[str, str]:
    """Ours, and the places that we import from: a worker is to run the same code, however this process was started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}


GRACE_SECONDS = 20.0
"""What a worker may take beyond its drain: for open requests, and where the machine is busy."""

_logger = logging.getLogger("broker")


class WorkerPool:
    """See the module.

    Args:
        settings: those of each worker; `workers` says how many there are.
    """

    def __init__(self, settings: Settings, listeners: Listeners) -> None:
        self._settings = settings.model_copy(update={"workers": 1})
        self._listeners = listeners
        self._members: list[WorkerProcess] = []
        self._running: set[WorkerProcess] = set()
        self._locks = [asyncio.Lock() for _ in range(settings.workers)]
        self._restarts = [Restarts() for _ in range(settings.workers)]
        self._patience = settings.drain_notice_seconds + settings.drain_seconds + GRACE_SECONDS

    # Life

    async def start(self) -> Report:
        """Start all of them, and return what one reports once all listen. Raises `StartError` as soon as one can't."""
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(self._start(slot)) for slot in range(len(self._locks))]
        except* StartError as errors:
            raise errors.exceptions[0] from None
        self._members = [task.result()[0] for task in starting]
        return starting[0].result()[1]

    async def keep(self) -> None:
        """Replace whoever dies, for ever."""
        async with asyncio.TaskGroup() as group:
            for slot in range(len(self._locks)):
                group.create_task(self._keep(slot))

    async def renew(self) -> None:
        """Renew all, one after the other: the successor listens before the worker is drained, and has ended before the next one.

        A successor that can't start ends it: whoever isn't renewed then goes on.
        """
        for slot, lock in enumerate(self._locks):
            async with lock:
                try:
                    successor, _ = await self._start(slot)
                except StartError as error:
                    _logger.error("the workers are not renewed: %s", error)
                    return
                former, self._members[slot] = self._members[slot], successor
            former.leave(signal.SIGHUP)
            await self._see_off(former)
        _logger.info("all workers are renewed")

    async def end(self, signals: Signals) -> None:
        """Drain all at once; the next signal that asks for the end breaks that off."""
        for member in self._running:
            member.leave(signal.SIGTERM)
        leaving = asyncio.ensure_future(self._see_all_off())
        again = asyncio.ensure_future(asked_to_end(signals))
        await asyncio.wait((leaving, again), return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            self._send(signal.SIGTERM)
        again.cancel()
        await leaving

    async def kill(self) -> None:
        """End all now: they have not begun to serve."""
        self._send(signal.SIGKILL)
        await self._see_all_off()

    # One slot

    async def _start(self, slot: int) -> tuple[WorkerProcess, Report]:
        member = await WorkerProcess.start(self._settings_of(slot), self._listeners.of(slot))
        self._running.add(member)
        try:
            return member, await member.listening()
        except StartError:
            self._running.discard(member)
            raise

    def _settings_of(self, slot: int) -> Settings:
        """Those of all, but for what each worker needs one of its own."""
        port = self._settings.metrics_port
        return self._settings if not port else self._settings.model_copy(update={"metrics_port": port + slot})

    async def _keep(self, slot: int) -> None:
        while True:
            member = self._members[slot]
            status = await member.ended()
            async with self._locks[slot]:
                if self._members[slot] is member:  # else it was renewed, or is
                    self._running.discard(member)
                    _logger.error("worker %d ended (%s) and is replaced", member.pid, _shown(status))
                    await self._replace(slot, member.lived_seconds)

    async def _replace(self, slot: int, lived_seconds: float) -> None:
        while True:
            if delay := self._restarts[slot].delay(lived_seconds):
                self._listeners.renew(slot)
                await asyncio.sleep(delay)
            try:
                self._members[slot], _ = await self._start(slot)
            except StartError as error:
                _logger.error("a worker can't be replaced: %s", error)
                lived_seconds = 0.0
            else:
                _logger.info("worker %d listens", self._members[slot].pid)
                return

    # All

    def _send(self, number: signal.Signals) -> None:
        for member in self._running:
            member.send(number)

    async def _see_all_off(self) -> None:
        await asyncio.gather(*[self._see_off(member) for member in self._running])

    async def _see_off(self, member: WorkerProcess) -> None:
        """Return once it has ended, if need be by force."""
        try:
            async with asyncio.timeout(self._patience):
                await member.ended()
        except TimeoutError:
            _logger.error("worker %d did not end within %.0f s: killed", member.pid, self._patience)
            member.send(signal.SIGKILL)
            await member.ended()
        self._running.discard(member)


def _shown(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
