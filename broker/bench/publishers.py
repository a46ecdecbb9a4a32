"""A process full of publishers: keep-alive connections that POST one event after the other, or stream NDJSON.

Rules: uvloop and `asyncio.Protocol`; an answer is read only as far as its status and its end. Every event is stamped when
it is due (see `marks`). An event counts as published when it was answered 2xx.

With a rate the load is open-loop: a pacer releases event j at start + j / rate, stamped then; if no connection is free it
waits in a backlog with that stamp, so that a server's standstill shows in the latency instead of thinning out the load.
Without one, each connection publishes again as soon as it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Any, cast

import uvloop

from broker.bench import marks, stream, tally
from broker.bench.answers import answer_end, error_text, is_success, status_line
from broker.bench.plan import Load, Target, fan_out, raise_file_limit
from broker.bench.words import Published, Task, Writings

REPORT_SECONDS = 0.1
ANSWER_SECONDS = 30.0


def give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback raised: a defect here. Say it and end, so that no run goes on without what died."""
    loop.default_exception_handler(context)
    loop.stop()


def write(pipe: Connection, load: Load, at: Target, task: Task) -> None:
    """The process's whole life: wait for "start", publish for `task.duration`, send Writings."""
    raise_file_limit()
    try:
        pipe.recv()
    except EOFError:
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Writer(pipe, load, at, task).run())


class Writer:
    """The publishers of one process: which event is next, who is free, what came of it."""

    def __init__(self, pipe: Connection, load: Load, at: Target, task: Task) -> None:
        self.pipe, self.load, self.at, self.task = pipe, load, at, task
        self.filler = marks.filler(load.size)
        self.heads: dict[int, bytes] = {}
        self.number = 0
        self.running = True
        self.idle: deque[Publisher] = deque()
        self.backlog: deque[int] = deque()
        self.opening: set[asyncio.Task[None]] = set()
        self.open: set[Publisher] = set()
        self.in_flight = 0
        self.quiet = asyncio.Event()
        self.published = self.expected = self.failed = self.first_ns = self.last_ns = 0
        self.failure = ""
        self.ages: tally.Tally = {}

    async def run(self) -> None:
        """Publish for the time given, wait for what is still unanswered, tell."""
        asyncio.get_running_loop().set_exception_handler(give_up)
        cpu = time.process_time_ns()
        self.first_ns = self.last_ns = time.monotonic_ns()
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self.report())
            try:
                await (self.stream() if self.load.ndjson else self.post())
            finally:
                reporting.cancel()
        counts = (
            self.published,
            self.expected,
            self.failed,
            self.failure,
            self.in_flight + len(self.backlog),
        )
        self.pipe.send(
            Writings(*counts, self.first_ns, self.last_ns, self.ages, time.process_time_ns() - cpu)
        )

    async def report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self.pipe.send(Published(self.published))

    # Single POSTs.

    async def post(self) -> None:
        for _ in range(self.task.publishers):
            self.connect()
        try:
            async with asyncio.timeout(self.task.duration):
                await (self.pace() if self.task.rate else asyncio.Event().wait())
        except TimeoutError:
            self.running = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self.all_answered()
        for task in self.opening:
            task.cancel()
        for publisher in tuple(self.open):
            publisher.close()

    async def pace(self) -> None:
        """Release events when they are due."""
        loop = asyncio.get_running_loop()
        start, released = loop.time(), 0
        while True:
            due = int((loop.time() - start) * self.task.rate) + 1
            now = time.monotonic_ns()
            for _ in range(due - released):
                self.release(now)
            released = due
            await asyncio.sleep(max(0.0, start + due / self.task.rate - loop.time()))

    def release(self, now: int) -> None:
        if self.idle:
            self.idle.popleft().publish(now)
        else:
            self.backlog.append(now)

    async def all_answered(self) -> None:
        while self.in_flight or self.backlog:
            self.quiet.clear()
            await self.quiet.wait()

    def connect(self) -> None:
        """Open one more connection; `opening` owns the task until it stands or has failed."""
        task = asyncio.get_running_loop().create_task(self.connecting())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def connecting(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Publisher(self), self.at.host, self.at.port
            )
        except OSError as error:
            self.fail(error_text(error))
            await asyncio.sleep(REPORT_SECONDS)
            if self.running:
                self.connect()

    def next(self, publisher: Publisher) -> None:
        """This connection is free."""
        if self.backlog:
            publisher.publish(self.backlog.popleft())
        elif self.running and not self.task.rate:
            publisher.publish(time.monotonic_ns())
        else:
            self.idle.append(publisher)
            if not self.in_flight:
                self.quiet.set()

    def request(self, topic: int, stamp: int) -> bytes:
        """The bytes that publish one event."""
        head = self.heads.get(topic)
        if head is None:
            more = ("Content-Type: text/plain", f"Content-Length: {self.load.size}")
            head = self.heads[topic] = self.at.head("POST", topic, *more)
        return head + marks.stamp(stamp) + self.filler

    def fail(self, reason: str) -> None:
        self.failed += 1
        self.failure = self.failure or reason

    # Streamed bodies.

    async def stream(self) -> None:
        """One streamed body on each connection, all at once."""
        bodies = [stream.publish(self.load, self.at, self.task.duration) for _ in range(self.task.publishers)]
        for body in await asyncio.gather(*bodies):
            self.published += body.published
            self.expected += body.published * fan_out(self.load, 0)
            if body.failure:
                self.fail(body.failure)
        self.last_ns = time.monotonic_ns()


class Publisher(asyncio.Protocol):
    """One keep-alive connection; at most one event under way."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.transport: asyncio.Transport | None = None
        self.answer = b""
        self.topic = -1
        self.stamp = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.writer.open.add(self)
        self.writer.next(self)

    def close(self) -> None:
        """Leave; nothing is under way."""
        assert self.transport is not None
        self.transport.abort()

    def publish(self, stamp: int) -> None:
        """Send the next event, stamped."""
        assert self.transport is not None
        writer = self.writer
        self.topic = writer.number % writer.load.topics
        self.stamp = stamp
        writer.number += 1
        writer.in_flight += 1
        self.transport.write(writer.request(self.topic, stamp))

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if self.topic >= 0 and answer_end(self.answer):
            self.settle()

    def settle(self) -> None:
        """The event under way is answered."""
        writer, topic, answer = self.writer, self.topic, self.answer
        self.topic, self.answer = -1, b""
        writer.in_flight -= 1
        writer.last_ns = time.monotonic_ns()
        if is_success(answer):
            writer.published += 1
            writer.expected += fan_out(writer.load, topic)
            tally.add(writer.ages, writer.last_ns - self.stamp, 1)
        else:
            writer.fail(status_line(answer))
        writer.next(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """The server has closed; go on with a new connection."""
        writer = self.writer
        writer.open.discard(self)
        if self in writer.idle:
            writer.idle.remove(self)
        if self.topic >= 0:
            writer.in_flight -= 1
            writer.fail("closed without an answer")
        if writer.running:
            writer.connect()
        writer.quiet.set()
