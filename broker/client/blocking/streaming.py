"""A stream of events into one topic, without asyncio.

Rules: has no thread of its own. A lost connection and a cancel are noticed only by the next call. Events survive a lost
connection as in `broker.client.streaming`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self

from broker.client.address import stream_urls
from broker.client.blocking.requests import BlockingRequests, unreachable
from broker.client.blocking.streamed_body import StreamedBody
from broker.client.errors import PublishError, unexpected
from broker.client.ndjson import ndjson_line
from broker.client.response import TEXT, Response
from broker.client.retries import Retries
from broker.client.sent_events import SentEvents, end_reason


class BlockingStream:
    """Sends events to a topic, and closes the topic at the end. A context manager, made by `BlockingClient.stream`.

    If someone asks this producer to stop, the next `send` or `check` raises `Cancelled`; the broker has closed the topic as
    `cancelled`. If the block ends with an exception, or is refused, its text is incomplete: the topic closes with the reason
    `failed`, or `stopped` after `KeyboardInterrupt`, `SystemExit` or the close of a generator.

    A lost connection is noticed, and made again, by the next `send` or `check`. If that takes longer than the broker's
    `producer_timeout_seconds`, the topic has closed as `abandoned`.

    Not for concurrent use by two threads, nor by a process forked within the block.
    """

    def __init__(
        self,
        requests: BlockingRequests,
        base: str,
        topic: str,
        query: Mapping[str, str],
        patience_seconds: float,
    ) -> None:
        self._requests = requests
        self._url, self._end_urls = stream_urls(base, topic, query)
        self._events = SentEvents()
        self._retries = Retries(patience_seconds)
        self._body: StreamedBody | None = None
        self._not_before = 0.0  # the time of the next connection
        self._connected_at = 0.0  # the time of the present one
        self._idle_until = 0.0  # it had nothing to send until then
        self._failure: PublishError | None = None  # what ended the stream
        self._pid = 0  # the process that entered the block

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        self._deliver()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pid != os.getpid():
            return
        try:
            if error is None:
                self.check()
                self._events.is_finished = True
                self._deliver()
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._pid = 0
            if error is not None:
                self._end(error)

    def _end(self, error: BaseException) -> None:
        """Leave the body where it is, and close the topic because of `error`, if there is something to close."""
        body, self._body = self._body, None
        if body is not None:
            body.cut()
        reason = end_reason(error, is_own=error is self._failure)
        if reason is not None:
            with contextlib.suppress(PublishError):  # `error` says more
                self._requests.send(self._end_urls[reason], b"", TEXT, HTTPStatus.CREATED)

    def send(self, data: str | bytes, event: str | None = None) -> None:
        """Send one event. Waits while the connection takes no more, or is lost.

        Raises:
            Cancelled: someone asked this producer to stop.
            PublishError: the broker refuses the stream, or was unreachable for `patience_seconds`.
            ValueError: `data` or `event` has a lone surrogate.
        """
        line = ndjson_line(data, event)
        self.check()
        self._events.add(line)
        self._deliver()

    def check(self) -> None:
        """Raise what `send` would raise, without an event. For a block that is busy between two events.

        It waits only if the connection is lost: then it makes one attempt to connect, unless the last one was just now.
        """
        if self._pid != os.getpid():
            raise RuntimeError("use a stream within `with`, and in the process that entered it")
        if self._failure is not None:
            raise self._failure
        if self._body is not None:
            self._idle_until = time.monotonic()
            try:
                with self._connection_errors():
                    _check_early(self._body.answer_now())
            except PublishError as error:
                self._lost(error)
        elif time.monotonic() >= self._not_before:
            self._try_to_deliver()

    def _deliver(self) -> None:
        """Send all events and, if the stream is finished, its end. Connects as often as needed."""
        while True:
            if self._body is None:
                time.sleep(max(0, self._not_before - time.monotonic()))
            if self._try_to_deliver():
                return

    def _try_to_deliver(self) -> bool:
        """The same on one connection. Returns whether it was not lost."""
        try:
            body = self._body or self._connect()
            with self._connection_errors():
                if self._events.has_unsent:
                    _check_early(body.write(self._events.take()))
                if not self._events.is_finished:
                    return True
                body.finish().expect(HTTPStatus.OK)
            self._disconnect()
        except PublishError as error:
            self._lost(error)
            return False
        return True

    def _connect(self) -> StreamedBody:
        self._body = self._requests.open_body(self._url, self._events.rewind())
        self._connected_at = self._idle_until = time.monotonic()
        return self._body

    def _lost(self, error: PublishError) -> None:
        """Give up the connection. Raises `error` if another one would not help."""
        self._disconnect()
        if self._events.has_progress:
            self._retries.restart()
        self._retries.ended(error, self._idle_until - self._connected_at)
        self._idle_until = self._connected_at  # the next one may never be connected
        try:
            if not error.passing:
                raise error
            now = time.monotonic()
            self._not_before = now + self._retries.wait_seconds(error, now)
        except PublishError:
            self._failure = error
            raise

    def _disconnect(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    @contextlib.contextmanager
    def _connection_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(self._url, error) from error


def _check_early(response: Response | None) -> None:
    """Raise the error of an answer that came before the end of the body."""
    if response is not None:
        response.expect(HTTPStatus.OK)
        raise unexpected(PublishError, "The response came before the end of the request", response.status)
