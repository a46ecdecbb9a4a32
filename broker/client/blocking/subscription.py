"""A subscription without asyncio: the events of some topics, over any number of connections.

Rules: drives a `SubscriptionState` with a blocking connection, and owns it. It has no thread: everything happens within
`__next__`. Another thread may call `close`, so the state is only touched with the lock held, and a connection that is being read
is closed by its reader.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from broker.client.blocking.connections import READ_BYTES, PooledConnection
from broker.client.blocking.requests import BlockingRequests
from broker.client.errors import SubscribeError, reason
from broker.client.subscription_state import SubscriptionState
from broker.client.types import ClientOptions, Connection
from broker.events import Event


class BlockingSubscription(Iterator[Event]):
    """The events of some topics, as `Subscription` has them. Made by `BlockingClient.subscribe`.

    `for` connects, and waits for the next event. The iteration ends when all topics have ended, or after `close`. As a context
    manager, it connects on entry and closes on exit.

    Not for concurrent use by two threads, except `close`.

    Raises:
        SubscribeError: as from `Subscription`.

    Attributes:
        ended: the topics that have ended, and the reason.
    """

    def __init__(
        self,
        requests: BlockingRequests,
        state: SubscriptionState,
        *,
        options: ClientOptions,
        on_change: Callable[[Connection], None] | None = None,
    ) -> None:
        self.ended = state.ended
        self._requests = requests
        self._state = state
        self._options = options
        self._on_change = on_change
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._connection: PooledConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._is_reading = False
        self._closed = threading.Event()

    @property
    def cursor(self) -> str:
        """The cursor after the last returned event; `""` until the broker has sent one."""
        with self._lock:
            return self._state.cursor

    @property
    def connected(self) -> bool:
        """Whether a stream is open, as far as the client knows."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect. Every event published after this call is returned, or reported as missing by a `Gap`."""
        while not (self._state.is_over or self._state.has_position):
            self._step()
        with self._lock:
            self._state.raise_failure()

    def close(self) -> None:
        """End the subscription and its connection. Any thread may call this; the iteration ends."""
        with self._lock:
            self._state.close()
            self._closed.set()
            connection = self._connection
            if connection is not None and self._is_reading:
                connection.shut_down()
                return
        self._disconnect()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:
            self._disconnect()

    def __next__(self) -> Event:
        while True:
            with self._lock:
                event = self._state.take()
                if event is not None:
                    return event
                if self._state.is_over:
                    raise StopIteration
            self._step()

    def _step(self) -> None:
        if self._response is None:
            self._connect()
        else:
            self._read(self._response)
        if self._state.is_over:
            self._disconnect()

    def _connect(self) -> None:
        self._closed.wait(max(0, self._not_before - time.monotonic()))
        with self._lock:
            if self._state.is_over:
                return
            url, headers = self._state.url(time.monotonic()), self._state.headers()
        try:
            opened = self._requests.open_stream(url, headers)
        except SubscribeError as refusal:
            with self._lock:
                seconds = self._state.refused(refusal)
            self._reconnect_after(seconds, refusal.detail)
            return
        with self._lock:
            if opened is None:
                self._state.finish()
                return
            self._connection, self._response = opened
            self._connection.sock.settimeout(self._options.silence_seconds)
            if self._state.is_over:
                return
            self._state.opened(time.monotonic())
        if self._on_change is not None:
            self._on_change(Connection(up=True))

    def _reconnect_after(self, seconds: float | None, why: str) -> None:
        if seconds is None or self._state.is_over:
            return
        self._not_before = time.monotonic() + seconds
        if self._on_change is not None:
            self._on_change(Connection(up=False, why=why, retry_seconds=seconds))

    def _read(self, response: http.client.HTTPResponse) -> None:
        with self._lock:
            if self._state.is_over:
                return
            self._is_reading = True
        why = "the broker closed the stream"
        data = b""
        try:
            data = response.read1(READ_BYTES)
        except TimeoutError:
            why = f"no data for {self._options.silence_seconds:g} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"the connection failed: {reason(error)}"
        finally:
            with self._lock:
                self._is_reading = False
        with self._lock:
            if self._state.is_over:
                return
            if data:
                self._state.feed(data)
                return
            seconds = self._state.lost(time.monotonic())
        self._disconnect()
        self._reconnect_after(seconds, why)

    def _disconnect(self) -> None:
        connection, self._connection, self._response = self._connection, None, None
        if connection is not None:
            connection.close()
