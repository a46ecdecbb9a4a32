"""A subscription: the events of some topics, over any number of connections.

Rules: owns its connection and its cursor. It has no task: everything happens within `__anext__`, in steps. Between two steps
the state is consistent, so a step that is cancelled (by a timeout around it) loses nothing, and the next call continues. At
most one read of the socket waits to be returned: a slow consumer stops the reading, and the broker treats it like any slow
subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp

from broker.backoff import Backoff
from broker.client.address import topic_url
from broker.client.control_events import TopicEnd, decode
from broker.client.errors import SubscribeError, reason, unexpected
from broker.client.open_stream import open_stream
from broker.client.requests import Token, authorization
from broker.client.types import ClientOptions, Connection, StartOptions
from broker.errors import TooLarge
from broker.events import Event
from broker.sse import Decoder

FIRST_DELAY_SECONDS = 3.0
"""Used until the broker sends `retry:`; browsers use about the same."""

ACCEPT = "*/*"
"""Not `text/event-stream`: the broker would refuse as it refuses browsers, without a reason and with a long delay."""
_HEADERS = {"Accept": ACCEPT, "Accept-Encoding": "identity"}


class _OpenStream:
    """The event stream of one connection."""

    def __init__(self, response: aiohttp.ClientResponse, decoder: Decoder, now: float) -> None:
        self.response = response
        self.decoder = decoder
        self.opened_at = now
        self.has_event = False


class Subscription(AsyncIterator[Event]):
    """The events of some topics, each once and in order, and a `Gap` if events are missing. Made by `Client.subscribe`.

    `async for` connects. When the stream is cut, it reconnects with the cursor: after the delay that the broker asked for,
    and after growing delays while the broker is unreachable. The iteration ends when all topics have ended, or after
    `close`. As an async context manager, it connects on entry and closes on exit.

    Each event has its topic. Of the broker's own events, `broker.gap` is returned as a `Gap`, `broker.cancel` as it is, and
    the others not at all. After `broker.expired` the broker refuses a fixed token; a token function is called for a new one.

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
        base: str,
        topics: Sequence[str],
        start: StartOptions,
        *,
        options: ClientOptions,
        token: Token | None,
        on_change: Callable[[Connection], None] | None = None,
    ) -> None:
        topic_url(SubscribeError, base, topics)
        self.ended: dict[str, str] = {}
        self._session = session
        self._base = base
        self._topics = tuple(topics)
        self._start = start
        self._options = options
        self._token = token
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._created_at = self._loop.time()
        self._backoff = Backoff(FIRST_DELAY_SECONDS, options.max_delay_seconds)
        self._not_before = 0.0
        self._stream: _OpenStream | None = None
        self._read_cursor = start.cursor  # of the last event read from the socket
        self._returned_cursor = start.cursor  # of the last event returned
        self._pending: deque[Event] = deque()  # read, not yet returned
        self._failure: SubscribeError | None = None
        self._closed = asyncio.Event()

    @property
    def cursor(self) -> str:
        """The cursor after the last returned event; `""` until the broker has sent one."""
        return self._returned_cursor if self._pending else self._read_cursor

    @property
    def connected(self) -> bool:
        """Whether a stream is open, as far as the client knows."""
        return self._stream is not None

    async def connect(self) -> None:
        """Connect. Every event published after this call is returned, or reported as missing by a `Gap`."""
        while not (self._closed.is_set() or self._pending or self._has_position):
            await self._step()
        if not self._pending:
            self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def _has_position(self) -> bool:
        """Whether a stream with a fixed start is open: by a cursor, or by a start other than `latest`."""
        return self._stream is not None and bool(self._read_cursor or not self._start.is_latest)

    def close(self) -> None:
        """End the subscription and its connection. Any task of the event loop may call this; the iteration ends."""
        self._closed.set()
        self._pending.clear()
        self._disconnect()

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
        if getattr(self, "_stream", None) is not None and not self._loop.is_closed():
            self._disconnect()

    async def __anext__(self) -> Event:
        while not self._pending:
            self._raise_failure()
            if self._closed.is_set():
                raise StopAsyncIteration
            await self._step()
        event = self._pending.popleft()
        self._returned_cursor = event.id
        return event

    async def _step(self) -> None:
        if self._stream is None:
            await self._connect()
        else:
            await self._read(self._stream)

    # Connecting

    async def _connect(self) -> None:
        await self._wait()
        if self._closed.is_set():
            return
        headers = {**_HEADERS, **await authorization(self._token)}
        if self._read_cursor:
            headers["Last-Event-ID"] = self._read_cursor
        try:
            response = await open_stream(self._session, self._url(), headers, self._options)
        except SubscribeError as refusal:
            self._refused(refusal)
            return
        if response is None:
            self._closed.set()
        elif self._closed.is_set():
            response.close()
        else:
            self._open(response)

    async def _wait(self) -> None:
        if self._loop.time() < self._not_before:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._not_before):
                    await self._closed.wait()

    def _url(self) -> str:
        query = {} if self._read_cursor else self._start.query(self._loop.time() - self._created_at)
        if len(self._topics) > 1:
            query["envelope"] = "json"
        return topic_url(SubscribeError, self._base, self._remaining, query)

    @property
    def _remaining(self) -> list[str]:
        return [topic for topic in self._topics if topic not in self.ended]

    def _open(self, response: aiohttp.ClientResponse) -> None:
        decoder = Decoder(self._options.max_event_bytes)
        decoder.last_event_id = self._read_cursor
        self._stream = _OpenStream(response, decoder, self._loop.time())
        if self._on_change is not None:
            self._on_change(Connection(up=True))

    def _refused(self, refusal: SubscribeError) -> None:
        if refusal.passing:
            self._schedule_reconnect(refusal.detail, refusal.retry_after)
        elif not self._closed.is_set():
            self._fail(refusal)

    def _schedule_reconnect(self, why: str, retry_after: float | None = None) -> None:
        if self._closed.is_set():
            return
        seconds = self._backoff.next(retry_after)
        self._not_before = self._loop.time() + seconds
        if self._on_change is not None:
            self._on_change(Connection(up=False, why=why, retry_seconds=seconds))

    # Reading

    async def _read(self, stream: _OpenStream) -> None:
        why = "the broker closed the stream"
        try:
            data = await stream.response.content.readany()
        except TimeoutError:
            data, why = b"", f"no data for {self._options.silence_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            data, why = b"", f"the connection failed: {reason(error)}"
        if data:
            self._decode(stream, data)
            return
        if stream.has_event or self._loop.time() - stream.opened_at > self._backoff.first:
            self._backoff.reset()
        self._disconnect()
        self._schedule_reconnect(why)

    def _decode(self, stream: _OpenStream, data: bytes) -> None:
        decoder = stream.decoder
        try:
            for event in decoder.feed(data):
                stream.has_event = True
                self._receive(event)
            self._read_cursor = decoder.last_event_id
        except TooLarge as error:
            self._fail(SubscribeError(error.code, error.detail))
        except (ValueError, KeyError):
            self._fail(unexpected(SubscribeError, "The stream is not a broker's"))
        if stream.has_event:
            self._backoff.reset()
        if decoder.retry_ms is not None:
            self._backoff.set_first(decoder.retry_ms / 1000)
        if not self._remaining:
            self._closed.set()
            self._disconnect()

    def _receive(self, event: Event) -> None:
        topic = self._topics[0] if len(self._topics) == 1 else None
        match decode(event, topic):
            case TopicEnd(topic=ended, reason=why):
                self.ended[ended] = why
            case Event() as decoded:
                self._pending.append(decoded)
        self._read_cursor = event.id

    def _fail(self, error: SubscribeError) -> None:
        """End the subscription. The pending events are returned first, then `error` is raised, once."""
        self._failure = error
        self._closed.set()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream.response.close()
            self._stream = None
