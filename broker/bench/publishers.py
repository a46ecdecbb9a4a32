"""A process full of publishers: keep-alive connections that POST one event after the other, or stream NDJSON.

Rules: uvloop and `asyncio.Protocol`; of a response only the status and the end are read. Every event is stamped with the time
it is due (see `stamps`). An event counts as published if its status is 2xx.

With a rate, the load is open-loop: a pacer releases event j at start + j / rate, stamped then. If no connection is free, the
event waits in a backlog with that stamp, so that a stall of the server shows in the latency instead of reducing the load.
Without a rate, each connection publishes again when it gets its response.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from multiprocessing.connection import Connection as Pipe
from typing import Any, cast

import uvloop

from broker.bench import histogram, stamps, streamed_body
from broker.bench.plan import Load, Target, fan_out
from broker.bench.responses import error_text, is_success, response_end, status_line
from broker.bench.types import PublishedCount, PublisherResult, PublisherShare
from broker.descriptors import raise_limit

REPORT_SECONDS = 0.1
RESPONSE_SECONDS = 30.0


def stop_on_defect(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback raised: a defect in this module. Print it and stop, so that the run fails."""
    loop.default_exception_handler(context)
    loop.stop()


def run_publishers(pipe: Pipe, load: Load, target: Target, share: PublisherShare) -> None:
    """The main function of the process: wait for "start", publish for `share.duration` seconds, send the result."""
    raise_limit()
    try:
        pipe.recv()
    except EOFError:
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(PublisherPool(pipe, load, target, share).run())


class PublisherPool:
    """The publishers of one process: the next event, the free connections, the counts."""

    def __init__(self, pipe: Pipe, load: Load, target: Target, share: PublisherShare) -> None:
        self.pipe, self.load, self.target, self.share = pipe, load, target, share
        self.filler = stamps.filler(load.size)
        self.heads: dict[int, tuple[bytes, bytes]] = {}
        self.number = 0
        self.running = True
        self.idle: deque[PublisherConnection] = deque()
        self.backlog: deque[int] = deque()
        self.opening: set[asyncio.Task[None]] = set()
        self.open: set[PublisherConnection] = set()
        self.in_flight = 0
        self.settled = asyncio.Event()  # there may be no event in flight any more
        self.published = self.expected = self.failed = self.first_ns = self.last_ns = 0
        self.failure = ""
        self.latencies: histogram.Counts = {}

    async def run(self) -> None:
        """Publish, wait for the last responses, send the result."""
        asyncio.get_running_loop().set_exception_handler(stop_on_defect)
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
            PublisherResult(
                *counts, self.first_ns, self.last_ns, self.latencies, time.process_time_ns() - cpu
            )
        )

    async def report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self.pipe.send(PublishedCount(self.published))

    # One POST for each event

    async def post(self) -> None:
        for _ in range(self.share.publishers):
            self.connect()
        try:
            async with asyncio.timeout(self.share.duration):
                await (self.pace() if self.share.rate else asyncio.Event().wait())
        except TimeoutError:
            self.running = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESPONSE_SECONDS):
                await self.wait_for_responses()
        for task in self.opening:
            task.cancel()
        for publisher in tuple(self.open):
            publisher.close()

    async def pace(self) -> None:
        """Release each event when it is due."""
        loop = asyncio.get_running_loop()
        start, released = loop.time(), 0
        while True:
            due = int((loop.time() - start) * self.share.rate) + 1
            now = time.monotonic_ns()
            for _ in range(due - released):
                self.release(now)
            released = due
            await asyncio.sleep(max(0.0, start + due / self.share.rate - loop.time()))

    def release(self, now: int) -> None:
        if self.idle:
            self.idle.popleft().publish(now)
        else:
            self.backlog.append(now)

    async def wait_for_responses(self) -> None:
        while self.in_flight or self.backlog:
            self.settled.clear()
            await self.settled.wait()

    def connect(self) -> None:
        """Open one more connection; `opening` owns the task until it succeeds or fails."""
        task = asyncio.get_running_loop().create_task(self.open_connection())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def open_connection(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: PublisherConnection(self), self.target.host, self.target.port
            )
        except OSError as error:
            self.fail(error_text(error))
            await asyncio.sleep(REPORT_SECONDS)
            if self.running:
                self.connect()

    def assign(self, publisher: PublisherConnection) -> None:
        """Give this free connection its next event, if there is one."""
        if self.backlog:
            publisher.publish(self.backlog.popleft())
        elif self.running and not self.share.rate:
            publisher.publish(time.monotonic_ns())
        else:
            self.idle.append(publisher)
            if not self.in_flight:
                self.settled.set()

    def request(self, topic: int, stamp: int) -> bytes:
        """The request that publishes one event."""
        around = self.heads.get(topic)
        if around is None:
            around = self.heads[topic] = self.target.post(topic, self.load.size)
        before, after = around
        return before + stamps.stamp(stamp) + self.filler + after

    def fail(self, reason: str) -> None:
        self.failed += 1
        self.failure = self.failure or reason

    # Streamed bodies

    async def stream(self) -> None:
        """Stream one body on each connection, all at the same time."""
        bodies = [
            streamed_body.publish(self.load, self.target, self.share.duration)
            for _ in range(self.share.publishers)
        ]
        for result in await asyncio.gather(*bodies):
            self.published += result.published
            self.expected += result.published * fan_out(self.load, 0)
            if result.failure:
                self.fail(result.failure)
        self.last_ns = time.monotonic_ns()


class PublisherConnection(asyncio.Protocol):
    """One keep-alive connection, with at most one event in flight."""

    def __init__(self, pool: PublisherPool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.response = b""
        self.topic = -1  # of the event in flight; -1: none
        self.stamp = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.pool.open.add(self)
        self.pool.assign(self)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def publish(self, stamp: int) -> None:
        """Send the next event with this stamp."""
        assert self.transport is not None
        pool = self.pool
        self.topic = pool.number % pool.load.topics
        self.stamp = stamp
        pool.number += 1
        pool.in_flight += 1
        self.transport.write(pool.request(self.topic, stamp))

    def data_received(self, data: bytes) -> None:
        self.response += data
        if self.topic >= 0 and response_end(self.response):
            self.count_response()

    def count_response(self) -> None:
        """Count the response to the event in flight."""
        pool, topic, response = self.pool, self.topic, self.response
        self.topic, self.response = -1, b""
        pool.in_flight -= 1
        pool.last_ns = time.monotonic_ns()
        if is_success(response):
            pool.published += 1
            pool.expected += fan_out(pool.load, topic)
            histogram.add(pool.latencies, pool.last_ns - self.stamp, 1)
        else:
            pool.fail(status_line(response))
        pool.assign(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """The server has closed the connection; open another."""
        pool = self.pool
        pool.open.discard(self)
        if self in pool.idle:
            pool.idle.remove(self)
        if self.topic >= 0:
            pool.in_flight -= 1
            pool.fail("closed without a response")
        if pool.running:
            pool.connect()
        pool.settled.set()
