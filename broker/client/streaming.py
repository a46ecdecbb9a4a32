"""A stream of events into one topic, such as the answer of a language model. It survives lost connections and has an end.

Rules: the body of one request lasts as long as the stream. Its events are kept until the end, so that they can be sent again
after a lost connection. A stream therefore needs as much memory as the text it sends, up to `sent_events.MAX_KEPT_BYTES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from broker.client.address import stream_urls
from broker.client.errors import PublishError
from broker.client.ndjson import ndjson_line
from broker.client.requests import Requests
from broker.client.response import NDJSON, TEXT
from broker.client.retries import Retries
from broker.client.sent_events import SentEvents, end_reason

MAX_UNSENT_BYTES = 64 << 10
_NOT_ENTERED = "use a stream within `async with`"


class Stream:
    """Sends events to a topic, and closes the topic at the end. An async context manager, made by `Client.stream`.

    If someone asks this producer to stop, the block is interrupted where it waits, as by `asyncio.timeout`, and `Cancelled` is
    raised at its end; the broker has closed the topic as `cancelled`. The same happens with a `PublishError` if the broker
    refuses the stream or was unreachable for too long.

    If the block ends with an exception, or is refused, its text is incomplete: the topic closes with the reason `failed`, or
    `stopped` if the block's task was cancelled. Without a connection to the broker, it closes as `abandoned` after the broker's
    `producer_timeout_seconds`.

    Not for concurrent use by two tasks.
    """

    def __init__(
        self, requests: Requests, base: str, topic: str, query: Mapping[str, str], patience_seconds: float
    ) -> None:
        self._requests = requests
        self._url, self._end_urls = stream_urls(base, topic, query)
        self._retries = Retries(patience_seconds)
        self._events = SentEvents()
        self._unsent_bytes = 0
        self._connected_at = math.inf  # the time of the present connection
        self._idle_until = -math.inf  # it had nothing to send until then
        self._changed = asyncio.Event()  # events were added or taken, or the stream is finished
        self._task: asyncio.Task[None] | None = None
        self._block: asyncio.Task[Any] | None = None  # the task that runs the block
        self._cancels_before = 0  # of that task
        self._has_broken_off = False

    async def __aenter__(self) -> Self:
        self._block = asyncio.current_task()
        assert self._block is not None
        self._cancels_before = self._block.cancelling()
        self._task = asyncio.create_task(self._run(), name="broker client stream")
        self._task.add_done_callback(self._break_off)
        return self

    def _break_off(self, task: asyncio.Task[None]) -> None:
        """The request has ended; if the block hasn't, cancel it where it waits."""
        if self._block is not None and not task.cancelled() and task.exception() is not None:
            self._has_broken_off = True
            self._block.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block, self._block = self._block, None
        assert self._task is not None
        assert block is not None
        if self._has_broken_off:
            is_ours = block.uncancel() <= self._cancels_before
            if is_ours and isinstance(error, asyncio.CancelledError):
                error = None
        if error is None:
            self._events.is_finished = True
            self._changed.set()
            try:
                await self._task  # it has failed already if it broke the block off
            except BaseException as failure:
                await self._end(failure)
                raise
        else:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, PublishError):
                await self._task
            await self._end(error)

    async def _end(self, error: BaseException) -> None:
        """Close the topic because of `error`, if there is something to close."""
        assert self._task is not None
        own = None if self._task.cancelled() or not self._task.done() else self._task.exception()
        reason = end_reason(error, is_own=error is own)
        if reason is not None:
            with contextlib.suppress(PublishError):  # `error` says more
                await self._requests.send(self._end_urls[reason], b"", TEXT, HTTPStatus.CREATED)

    async def send(self, data: str | bytes, event: str | None = None) -> None:
        """Send one event. Waits while the connection takes no more, or is lost.

        Raises:
            Cancelled: someone asked this producer to stop.
            PublishError: the broker refuses the stream, or was unreachable for `patience_seconds`.
            ValueError: `data` or `event` has a lone surrogate.
        """
        assert self._task is not None, _NOT_ENTERED
        line = ndjson_line(data, event)
        while self._unsent_bytes > MAX_UNSENT_BYTES and not self._task.done():
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((changed, self._task), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if self._task.done():
            self._task.result()
        self._events.add(line)
        self._unsent_bytes += len(line)
        self._changed.set()

    async def cancelled(self) -> None:
        """Return when the broker takes no more events. `send` then raises the reason. For other tasks than the block's."""
        assert self._task is not None, _NOT_ENTERED
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        """Send the request, again after each lost connection, until it succeeds."""
        loop = asyncio.get_running_loop()
        while True:
            headers = {**NDJSON, **self._events.rewind()}
            self._unsent_bytes = self._events.kept_bytes
            limit, self._connected_at, self._idle_until = asyncio.timeout(None), math.inf, -math.inf
            try:
                await self._requests.send(self._url, self._body(limit), headers, HTTPStatus.OK, limit)
            except PublishError as error:
                if self._events.has_progress:
                    self._retries.restart()
                elif not self._unsent_bytes and not self._events.is_finished:
                    self._idle_until = loop.time()
                self._retries.ended(error, self._idle_until - self._connected_at)
                if not error.passing:
                    raise
                await asyncio.sleep(self._retries.wait_seconds(error, loop.time()))
            else:
                return

    async def _body(self, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The events as they come. At the end, `limit` starts to run for the response."""
        self._connected_at = asyncio.get_running_loop().time()
        yield b""  # aiohttp keeps the head until the body begins, and a cancel would not reach a producer without events
        while True:
            while self._events.has_unsent:
                chunk = self._events.take()
                yield chunk
                self._unsent_bytes -= len(chunk)
                self._changed.set()
            if self._events.is_finished:
                limit.reschedule(asyncio.get_running_loop().time() + self._requests.timeout_seconds)
                return
            self._changed.clear()
            await self._changed.wait()
            self._idle_until = asyncio.get_running_loop().time()
