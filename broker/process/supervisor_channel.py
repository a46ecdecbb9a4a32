"""A worker's end of the pipes to its supervisor: pings, and metrics.

Each message is a line. From the supervisor:

    (an empty line)      a ping; the answer is an empty line
    metrics              the answer is `metrics` and this worker's (`snapshots`)
    merged <JSON>        the metrics of all workers, as text: the answer to `merge`

The worker sends `merge` when it is asked for the metrics of all workers, and `metrics` once more before it ends. When the pipe
closes, the supervisor is dead and the worker exits at once.

Rules: the event loop answers, so a worker that hangs doesn't. A write never blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from functools import partial
from typing import cast

from prometheus_client import CollectorRegistry

from broker.errors import Unavailable
from broker.process.snapshots import encode, take

EXIT_ORPHANED = 1
PING = b""
METRICS = b"metrics"
MERGE = b"merge"
MERGED = b"merged"
MERGE_SECONDS = 4.0
"""For the answer to `merge`: longer than the supervisor waits for a worker."""
LAST_SECONDS = 1.0
"""For the supervisor to take this worker's last metrics."""


class SupervisorChannel(asyncio.Protocol):
    """Made by `open`.

    Attributes:
        registry: of the worker's metrics, once it has started.
    """

    def __init__(self, writer: PipeWriter) -> None:
        self.registry: CollectorRegistry | None = None
        self._writer = writer
        self._rest = b""
        self._merging: asyncio.Future[bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, messages: int, answers: int) -> SupervisorChannel:
        """Read messages from the descriptor `messages`, and write answers to `answers`."""
        loop = asyncio.get_running_loop()
        _, writer = await loop.connect_write_pipe(PipeWriter, os.fdopen(answers, "wb", 0))
        channel = cls(writer)
        await loop.connect_read_pipe(lambda: channel, os.fdopen(messages, "rb", 0, closefd=False))
        return channel

    async def merged(self) -> bytes:
        """The metrics of all workers, as text. Raises `Unavailable` if the supervisor doesn't answer in time."""
        merging = self._merging
        if merging is None:
            loop = asyncio.get_running_loop()
            merging = self._merging = loop.create_future()
            timer = loop.call_later(MERGE_SECONDS, self._give_up, merging)
            merging.add_done_callback(partial(_end, timer))
            self._writer.send(MERGE)
        return await asyncio.shield(merging)

    def _give_up(self, merging: asyncio.Future[bytes]) -> None:
        self._merging = None
        merging.set_exception(Unavailable("The supervisor doesn't answer; ask again in a moment."))

    async def send_last(self) -> None:
        """Send this worker's metrics for the last time, so that its counts aren't lost."""
        await self._send_metrics()
        with contextlib.suppress(TimeoutError):  # the supervisor has the counts of the last scrape
            async with asyncio.timeout(LAST_SECONDS):
                await self._writer.flushed.wait()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._receive(line)

    def eof_received(self) -> bool:
        os._exit(EXIT_ORPHANED)

    def connection_lost(self, exc: Exception | None) -> None:
        os._exit(EXIT_ORPHANED)

    def _receive(self, line: bytes) -> None:
        kind, _, rest = line.partition(b" ")
        if kind == PING:
            self._writer.send(PING)
        elif kind == METRICS:
            task = asyncio.create_task(self._send_metrics(), name="metrics for the supervisor")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind == MERGED and self._merging is not None:
            self._merging.set_result(json.loads(rest).encode())
            self._merging = None

    async def _send_metrics(self) -> None:
        snapshot = [] if self.registry is None else await take(self.registry)
        self._writer.send(METRICS + b" " + encode(snapshot))


def _end(timer: asyncio.TimerHandle, merging: asyncio.Future[bytes]) -> None:
    timer.cancel()
    merging.exception()  # those that asked may all have left


class PipeWriter(asyncio.Protocol):
    """Writes lines to a pipe, in their order.

    Attributes:
        flushed: set while nothing waits to be written.
    """

    def __init__(self) -> None:
        self.flushed = asyncio.Event()
        self.flushed.set()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        self.flushed.clear()

    def resume_writing(self) -> None:
        self.flushed.set()

    def send(self, line: bytes) -> None:
        """Write `line`, which has no LF."""
        if self._transport is not None:
            self._transport.write(line + b"\n")
