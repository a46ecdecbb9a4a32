"""One worker process, as the supervisor sees it.

Rules: no slots and no restarts, which are the pool's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from socket import socket

from broker.process.pulse import Pulse
from broker.process.setup import Endpoint, StartError
from broker.process.snapshots import Snapshot, decode
from broker.process.supervisor_channel import MERGE, MERGED, METRICS, PING
from broker.process.worker import WorkerConfig, decode_start
from broker.settings import Settings

MAX_LINE_BYTES = 16 << 20
START_SECONDS = 60.0
"""Limit for a start, which takes about a second; longer than the wait for an unreachable store."""


class WorkerKilled(StartError):
    """The machine's fault, perhaps for a moment: a signal ended the worker before it listened."""


class WorkerProcess:
    """One running worker process.

    Args:
        timeout_seconds: how long a ping may stay unanswered.
        on_merge: called when the worker is asked for the metrics of all workers; `send_merged` answers.

    Attributes:
        last_metrics: the newest that it has sent.
    """

    def __init__(
        self, process: Process, timeout_seconds: float, on_merge: Callable[[WorkerProcess], None]
    ) -> None:
        self.pid = process.pid
        self.last_metrics: Snapshot = ()
        self._process = process
        self._is_draining = False
        self._started_at = asyncio.get_running_loop().time()
        self._pulse = Pulse(timeout_seconds, self._started_at)
        self._is_pinged = False  # and has not answered yet
        self._reading: asyncio.Task[None] | None = None
        self._awaited: asyncio.Future[bool] | None = None  # this worker's metrics
        self._on_merge = on_merge

    @classmethod
    async def start(
        cls, settings: Settings, sockets: Sequence[socket], on_merge: Callable[[WorkerProcess], None]
    ) -> WorkerProcess:
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
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:
            raise StartError(f"can't start a worker: {error.strerror}") from None
        worker = cls(process, settings.worker_timeout_seconds, on_merge)
        worker._write(WorkerConfig(settings, descriptors).encode())
        return worker

    async def wait_until_listening(self) -> Endpoint:
        """Return the endpoint once the worker listens.

        Raises:
            StartError: the worker failed to start and has ended. It is a `WorkerKilled` if a signal ended it.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.wait()
            raise StartError(f"a worker did not start within {START_SECONDS:.0f} seconds") from None
        if line:
            try:
                endpoint = decode_start(line)
            except StartError:
                await self.wait()
                raise
            self._reading = asyncio.create_task(self._read(), name=f"answers of worker {self.pid}")
            return endpoint
        status = await self.wait()
        if status < 0:
            raise WorkerKilled(f"worker {self.pid} was killed by {describe(status)} before it listened")
        raise StartError("a worker failed to start; the lines above say why")

    @property
    def uptime_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at

    def hangs(self) -> bool:
        """Ping the worker, unless the last ping is still unanswered. Returns whether that took too long: call it periodically."""
        is_answered = not self._is_pinged
        if is_answered and self._process.returncode is None:
            self._is_pinged = True
            self._send(PING)
        return self._pulse.tick(asyncio.get_running_loop().time(), is_answered=is_answered)

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
        status = await self._process.wait()
        if self._reading is not None:
            await self._reading  # the pipe has ended
        return status

    # Messages

    async def metrics(self, seconds: float) -> bool:
        """Ask for the worker's metrics, which are `last_metrics` then. Returns whether it answered, within `seconds` and before its end.

        A worker that doesn't listen yet isn't asked: its standard streams are for its settings and its endpoint.
        """
        if self._reading is None or self._reading.done():
            return False
        awaited = self._awaited
        if awaited is None:
            awaited = self._awaited = asyncio.get_running_loop().create_future()
            self._send(METRICS)
        done, _ = await asyncio.wait([awaited], timeout=seconds)
        return bool(done) and awaited.result()

    def send_merged(self, text: bytes) -> None:
        """Answer the worker's request for the metrics of all workers."""
        self._send(MERGED + b" " + json.dumps(text.decode()).encode())

    def _send(self, line: bytes) -> None:
        self._write(line + b"\n")

    def _write(self, data: bytes) -> None:
        """Write to its standard input, unless it has ended."""
        stdin = self._process.stdin
        assert stdin is not None
        if not stdin.is_closing():  # on a closed one uvloop raises
            stdin.write(data)

    async def _read(self) -> None:
        """Read what the worker sends, until its end."""
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):  # else it ended in mid-line
            kind, _, rest = line.rstrip(b"\n").partition(b" ")
            if kind == PING:
                self._is_pinged = False
            elif kind == METRICS:
                self.last_metrics = decode(rest)
                self._answered(True)
            elif kind == MERGE:
                self._on_merge(self)
        self._answered(False)

    def _answered(self, is_answered: bool) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.set_result(is_answered)


def _environment() -> dict[str, str]:
    """This process's environment and import path, so that a worker runs the same code."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}


def describe(status: int) -> str:
    """An exit status for the log."""
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
