"""A subscription: the events of some topics, over any number of connections.

Rules: drives a `SubscriptionState` with aiohttp, and owns the connection. It has no task: everything happens within
`__anext__`, in steps. Between two steps the state is consistent, so a step that is cancelled (by a timeout around it) loses
nothing, and the next call continues. At most one read of the socket waits to be returned: a slow consumer stops the reading,
and the broker treats it like any slow subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import aiohttp

from broker.client.errors import SubscribeError, reason
from broker.client.open_stream import open_stream
from broker.client.requests import Token, authorization
from broker.client.subscription_state import SubscriptionState
from broker.client.types import ClientOptions, Connection
from broker.events import Event


class Subscription(AsyncIterator[Event]):
    """The events of some topics, each once and in order, and a `Gap` if events are missing. Made by `Client.subscribe`.

    `async for` connects. When the stream is cut, it reconnects with the cursor: after the delay that the broker asked for,
    and after growing delays while the broker is unreachable. The iteration ends when all topics have ended, or after
    `close`. As an async context manager, it connects on entry and closes on exit.

    Each event has its topic. Of the broker's own events, `broker.gap` is returned as a `Gap`, `broker.end` as an `End` if asked
    for, `broker.cancel` as it is, and the others not at all. After `broker.expired` the broker refuses a fixed token; a token
    function is called for a new one.

    Not for concurrent use by two tasks, except `close`.

    Raises:
        SubscribeError: from `connect` and `async for`, if retrying does not help: a status of 4xx (except 408, 425 and
            429), a response that is not an event stream, an event over `max_event_bytes`. The subscription ends.

    Attributes:
        ended: the topics that have ended, and the reason: `closed`, `deleted`, `abandoned`, `cancelled`, or the publisher's own.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        state: SubscriptionState,
        *,
        options: ClientOptions,
        token: Token | None,
        on_change: Callable[[Connection], None] | None = None,
    ) -> None:
        self.ended = state.ended
        self._session = session
        self._state = state
        self._options = options
        self._token = token
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._not_before = 0.0
        self._response: aiohttp.ClientResponse | None = None
        self._closed = asyncio.Event()  # the state is over

    @property
    def cursor(self) -> str:
        """The cursor after the last returned event; `""` until the broker has sent one."""
        return self._state.cursor

    @property
    def connected(self) -> bool:
        """Whether a stream is open, as far as the client knows."""
        return self._response is not None

    async def connect(self) -> None:
        """Connect. Every event published after this call is returned, or reported as missing by a `Gap`."""
        while not (self._state.is_over or self._state.has_position):
            await self._step()
        self._state.raise_failure()

    def close(self) -> None:
        """End the subscription and its connection. Any task of the event loop may call this; the iteration ends."""
        self._state.close()
        self._end_if_over()

    async def aclose(self) -> None:
        """The same as `close`, for `contextlib.aclosing`."""
        self.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_response", None) is not None and not self._loop.is_closed():
            self._disconnect()

    async def __anext__(self) -> Event:
        while (event := self._state.take()) is None:
            if self._state.is_over:
                raise StopAsyncIteration
            await self._step()
        return event

    async def _step(self) -> None:
        if self._response is None:
            await self._connect()
        else:
            await self._read(self._response)
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._state.is_over:
            self._closed.set()
            self._disconnect()

    async def _connect(self) -> None:
        await self._wait()
        if self._state.is_over:
            return
        headers = {**self._state.headers(), **await authorization(self._token)}
        url = self._state.url(self._loop.time())
        try:
            response = await open_stream(self._session, url, headers, self._options)
        except SubscribeError as refusal:
            self._reconnect_after(self._state.refused(refusal), refusal.detail)
            return
        if response is None:
            self._state.finish()
        elif self._state.is_over:
            response.close()
        else:
            self._response = response
            self._state.opened(self._loop.time())
            if self._on_change is not None:
                self._on_change(Connection(up=True))

    async def _wait(self) -> None:
        if self._loop.time() < self._not_before:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._not_before):
                    await self._closed.wait()

    def _reconnect_after(self, seconds: float | None, why: str) -> None:
        if seconds is None or self._state.is_over:
            return
        self._not_before = self._loop.time() + seconds
        if self._on_change is not None:
            self._on_change(Connection(up=False, why=why, retry_seconds=seconds))

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        why = "the broker closed the stream"
        try:
            data = await response.content.readany()
        except TimeoutError:
            data, why = b"", f"no data for {self._options.silence_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            data, why = b"", f"the connection failed: {reason(error)}"
        if self._state.is_over:
            return
        if data:
            self._state.feed(data)
        else:
            self._disconnect()
            self._reconnect_after(self._state.lost(self._loop.time()), why)

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
