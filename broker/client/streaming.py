"""A stream of events into one topic, such as the answer of a language model. It survives lost connections and has an end.

Rules: the body of one request lasts as long as the stream. Events are numbered and kept until the end, so that they can be
sent again after a lost connection; the broker knows the numbers and publishes nothing twice. A stream therefore needs as
much memory as the text it sends, up to `MAX_KEPT_BYTES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from broker.client.address import topic_url
from broker.client.errors import Cancelled, PublishError
from broker.client.publishing import Retries, ndjson_line
from broker.client.requests import NDJSON, TEXT, Requests

FAILED = "failed"
"""The reason of an end after an exception in the producer."""
STOPPED = "stopped"
"""The reason of an end after the application cancelled its producer."""

MAX_KEPT_BYTES = 16 << 20
MAX_UNSENT_BYTES = 64 << 10
PRODUCER_NAME_BYTES = 12
_NOT_ENTERED = "use a stream within `async with`"


class Stream:
    """Sends events to a topic, and closes the topic at the end. An async context manager, made by `Client.stream`.

    If someone asks this producer to stop, the block is broken off where it waits, as by `asyncio.timeout`, and `Cancelled` is
    raised at its end; the broker has closed the topic as `cancelled`. The same happens with a `PublishError` if the broker
    refuses the stream or was unreachable for too long.

    If the block ends with an exception, its text is incomplete: the topic closes with the reason `failed`, or `stopped` if the
    block's task was cancelled. Without a connection to the broker, it closes as `abandoned` after the broker's
    `producer_timeout_seconds`.

    Not for concurrent use by two tasks.
    """

    def __init__(
        self, requests: Requests, base: str, topic: str, query: Mapping[str, str], patience_seconds: float
    ) -> None:
        self._requests = requests
        self._url = topic_url(PublishError, base, [topic], {**query, "end": "on-disconnect"})
        self._end_urls = {
            reason: topic_url(PublishError, base, [topic], {"end": "true", "reason": reason})
            for reason in (FAILED, STOPPED)
        }
        self._producer = secrets.token_urlsafe(PRODUCER_NAME_BYTES)
        self._patience_seconds = patience_seconds
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._first = 1  # the number of the first kept event
        self._sent = 0  # how many kept events the present connection has taken
        self._unsent_bytes = 0
        self._is_finished = False
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
            if error is None or (is_ours and isinstance(error, asyncio.CancelledError)):
                self._task.result()
        if error is None:
            self._is_finished = True
            self._changed.set()
            await self._task
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, PublishError):
            await self._task
        if not isinstance(error, Cancelled):
            reason = STOPPED if isinstance(error, asyncio.CancelledError) else FAILED
            with contextlib.suppress(PublishError):  # the block's error says more
                await self._requests.post(self._end_urls[reason], b"", TEXT, HTTPStatus.CREATED)

    async def send(self, data: str | bytes, event: str | None = None) -> None:
        """Send one event. Waits while the connection takes no more, or is lost.

        Raises:
            Cancelled: someone asked this producer to stop.
            PublishError: the broker refuses the stream, or was unreachable for `patience_seconds`.
            ValueError: `data` or `event` has a lone surrogate.
        """
        assert self._task is not None, _NOT_ENTERED
        line = ndjson_line(data if isinstance(data, str) else data.decode(), event)
        while self._unsent_bytes > MAX_UNSENT_BYTES and not self._task.done():
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((changed, self._task), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if self._task.done():
            self._task.result()
        self._keep(line)
        self._changed.set()

    async def cancelled(self) -> None:
        """Return when the broker takes no more events. `send` then raises the reason. For other tasks than the block's."""
        assert self._task is not None, _NOT_ENTERED
        await asyncio.wait((self._task,))

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._kept_bytes += len(line)
        self._unsent_bytes += len(line)
        while self._kept_bytes > MAX_KEPT_BYTES and self._sent:
            self._kept_bytes -= len(self._kept.popleft())
            self._first += 1
            self._sent -= 1

    async def _run(self) -> None:
        """Send the request, again after each lost connection, until it succeeds."""
        retries = Retries(self._patience_seconds)
        while True:
            sent_before = self._first + self._sent
            self._sent, self._unsent_bytes = 0, self._kept_bytes
            limit = asyncio.timeout(None)
            headers = {
                **NDJSON,
                "Broker-Producer": self._producer,
                "Broker-Sequence": str(self._first),
            }
            try:
                await self._requests.post(self._url, self._body(limit), headers, HTTPStatus.OK, limit)
            except PublishError as error:
                if self._first + self._sent > sent_before:
                    retries.restart()
                if not error.passing:
                    raise
                await retries.wait(error)
            else:
                return

    async def _body(self, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The events as they come. At the end, `limit` starts to run for the response."""
        while True:
            while self._sent < len(self._kept):
                lines = [self._kept[index] for index in range(self._sent, len(self._kept))]
                self._sent += len(lines)
                chunk = b"".join(lines)
                yield chunk
                self._unsent_bytes -= len(chunk)
                self._changed.set()
            if self._is_finished:
                limit.reschedule(asyncio.get_running_loop().time() + self._requests.timeout_seconds)
                return
            self._changed.clear()
            await self._changed.wait()
