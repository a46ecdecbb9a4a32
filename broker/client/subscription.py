"""One subscription, over as many connections as it takes.

Rules: owns its connection and its cursor; the bytes are `sse.Decoder`'s business, what they mean is `meaning`'s, and how one
asks for a stream is `asking`'s. It has no task: everything happens within `__anext__`, in steps between which the state is
whole, so that a cancelled step (a timeout around it) loses nothing and the next call goes on. What is read and not yet handed
out is at most one read of the socket: who handles events slowly isn't read for, and the broker does with it as with any slow
reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp

from broker.client.address import topic_url
from broker.client.asking import ask
from broker.client.backoff import Backoff
from broker.client.credentials import Token, authorization
from broker.client.errors import SubscribeError, reason, unexpected
from broker.client.meaning import Ended, meaning
from broker.client.words import Connection, Limits, Start
from broker.errors import TooLarge
from broker.events import Event
from broker.sse import Decoder

FIRST_DELAY_SECONDS = 3.0
"""Until the broker says otherwise; what browsers take."""

ACCEPT = "*/*"
"""Not `text/event-stream`: then the broker refuses as it must refuse a browser, with no reason and a long delay."""
_HEADERS = {"Accept": ACCEPT, "Accept-Encoding": "identity"}


class _Stream:
    """One connection's answer while it is read."""

    def __init__(self, response: aiohttp.ClientResponse, decoder: Decoder, now: float) -> None:
        self.response = response
        self.decoder = decoder
        self.since = now
        self.brought = False  # an event, be it the broker's own


class Subscription(AsyncIterator[Event]):
    """The events of some topics, each once and in order, or a `Gap`; made by `Client.subscribe`.

    `async for` connects, and connects again when the stream is cut, by cursor: after the delay the broker asked for, with
    growing ones while it can't be reached. It ends when all topics have ended (`broker.end`, or 204), or at `close`. As an async
    context manager it is connected on entry, and closed on exit.

    Each event has its topic. Events whose type starts with `broker.` are the broker's own: `broker.gap` comes as a `Gap`,
    `broker.cancel` as it is; `broker.open`, `broker.end` and `broker.expired` are not handed out; after the latter a
    fixed token is refused, and whoever gives a fresh one is asked for it.

    Not for two tasks at once, but for `close`.

    Raises:
        SubscribeError: from `connect` and `async for`, for what waiting doesn't heal: an answer of 4xx (but 408, 425 and 429),
            one that is no event stream, an event over `max_event_bytes`. The subscription is over then.

    Attributes:
        ended: the topics that have ended, with the reason: `closed`, `deleted` or `abandoned`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        topics: Sequence[str],
        start: Start,
        *,
        limits: Limits,
        token: Token | None,
        on_change: Callable[[Connection], None] | None = None,
    ) -> None:
        topic_url(SubscribeError, base, topics)
        self.ended: dict[str, str] = {}
        self._session = session
        self._base = base
        self._topics = tuple(topics)
        self._start = start
        self._limits = limits
        self._token = token
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._backoff = Backoff(FIRST_DELAY_SECONDS, limits.max_delay_seconds)
        self._not_before = 0.0
        self._stream: _Stream | None = None
        self._read_to = start.cursor
        self._handed = start.cursor
        self._pending: deque[Event] = deque()
        self._failure: SubscribeError | None = None
        self._over = asyncio.Event()

    @property
    def cursor(self) -> str:
        """Everything up to this id was handed out; `""` before anything is known."""
        return self._handed if self._pending else self._read_to

    @property
    def connected(self) -> bool:
        """Whether a stream is open, as far as is known."""
        return self._stream is not None

    # Life

    async def connect(self) -> None:
        """Return once the broker vouches for what follows: no event published after this is missed, or a gap is told."""
        while not (self._over.is_set() or self._pending or self._vouched):
            await self._step()
        if not self._pending:
            self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def _vouched(self) -> bool:
        return self._stream is not None and bool(self._read_to or not self._start.is_latest)

    def close(self) -> None:
        """End the subscription and its connection, from anywhere in the event loop; an `async for` over it ends."""
        self._over.set()
        self._pending.clear()
        self._hang_up()

    async def aclose(self) -> None:
        """The same, for `contextlib.aclosing`."""
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
            self._hang_up()

    async def __anext__(self) -> Event:
        while not self._pending:
            self._raise_failure()
            if self._over.is_set():
                raise StopAsyncIteration
            await self._step()
        event = self._pending.popleft()
        self._handed = event.id
        return event

    async def _step(self) -> None:
        if self._stream is None:
            await self._connect()
        else:
            await self._read(self._stream)

    # Connecting

    async def _connect(self) -> None:
        await self._wait()
        if self._over.is_set():
            return
        headers = {**_HEADERS, **await authorization(self._token)}
        if self._read_to:
            headers["Last-Event-ID"] = self._read_to
        try:
            response = await ask(self._session, self._url(), headers, self._limits)
        except SubscribeError as refusal:
            self._refused(refusal)
            return
        if response is None:
            self._over.set()
        elif self._over.is_set():
            response.close()
        else:
            self._open(response)

    async def _wait(self) -> None:
        if self._loop.time() < self._not_before:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._not_before):
                    await self._over.wait()

    def _url(self) -> str:
        query = {} if self._read_to else self._start.query(self._loop.time() - self._begun)
        if len(self._topics) > 1:
            query["envelope"] = "json"
        return topic_url(SubscribeError, self._base, self._wanted, query)

    @property
    def _wanted(self) -> list[str]:
        return [topic for topic in self._topics if topic not in self.ended]

    def _open(self, response: aiohttp.ClientResponse) -> None:
        decoder = Decoder(self._limits.max_event_bytes)
        decoder.last_event_id = self._read_to
        self._stream = _Stream(response, decoder, self._loop.time())
        if self._on_change is not None:
            self._on_change(Connection(up=True))

    def _refused(self, refusal: SubscribeError) -> None:
        """Come back later, or never."""
        if refusal.passing:
            self._lost(refusal.detail, refusal.retry_after)
        elif not self._over.is_set():
            self._fail(refusal)

    def _lost(self, why: str, retry_after: float | None = None) -> None:
        if self._over.is_set():
            return
        seconds = self._backoff.next(retry_after)
        self._not_before = self._loop.time() + seconds
        if self._on_change is not None:
            self._on_change(Connection(up=False, why=why, retry_seconds=seconds))

    # Reading

    async def _read(self, stream: _Stream) -> None:
        why = "the broker ended the stream"
        try:
            data = await stream.response.content.readany()
        except TimeoutError:
            data, why = b"", f"nothing came for {self._limits.silence_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            data, why = b"", f"the connection broke: {reason(error)}"
        if data:
            self._take(stream, data)
            return
        if stream.brought or self._loop.time() - stream.since > self._backoff.first:
            self._backoff.reset()
        self._hang_up()
        self._lost(why)

    def _take(self, stream: _Stream, data: bytes) -> None:
        decoder = stream.decoder
        try:
            for event in decoder.feed(data):
                stream.brought = True
                self._receive(event)
            self._read_to = decoder.last_event_id
        except TooLarge as error:
            self._fail(SubscribeError(error.code, error.detail))
        except (ValueError, KeyError):
            self._fail(unexpected(SubscribeError, "The stream isn't in the broker's form"))
        if stream.brought:
            self._backoff.reset()
        if decoder.retry_ms is not None:
            self._backoff.ask(decoder.retry_ms / 1000)
        if not self._wanted:
            self._over.set()
            self._hang_up()

    def _receive(self, event: Event) -> None:
        topic = self._topics[0] if len(self._topics) == 1 else None
        match meaning(event, topic):
            case Ended(topic=ended, reason=why):
                self.ended[ended] = why
            case Event() as handed:
                self._pending.append(handed)
        self._read_to = event.id

    def _fail(self, error: SubscribeError) -> None:
        """What came before is handed out, then `error` is raised, once."""
        self._failure = error
        self._over.set()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.response.close()
            self._stream = None
