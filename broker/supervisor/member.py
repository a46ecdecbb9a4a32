"""One worker process, as its supervisor sees it.

Rules: start it, hear its report, signal it, await its end. Who is replaced, and when, is `crew`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from socket import socket

from broker.process import StartError
from broker.settings import Settings
from broker.supervisor.orders import Orders, Report

START_SECONDS = 60.0
"""A bound on what takes less than one: more than a store that can't be reached is waited for."""


class Member:
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
    async def start(cls, settings: Settings, sockets: Sequence[socket]) -> Member:
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
                "broker.supervisor.worker",
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
