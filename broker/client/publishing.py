"""The publishing side of the client: one request, or one and its retries.

Rules: knows aiohttp's session and the answers of contract §2. Nothing is published twice: an attempt after which nobody
knows is repeated only where an `Idempotency-Key` goes with the event.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from broker.client.backoff import Backoff
from broker.client.credentials import Token, authorization
from broker.client.errors import MAX_ANSWER_BYTES, UNREACHABLE, PublishError, problem, reason
from broker.events import Event

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
JOINED_BYTES = 32 << 10
KEY_BYTES = 12


@dataclass(frozen=True, slots=True)
class Published:
    """What a stream of events came to; the ids are None where nothing was published, or where each event names its topic."""

    count: int
    first_id: str | None = None
    last_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    retry_after: str | None
    body: bytes


async def read(response: aiohttp.ClientResponse) -> Answer:
    """The answer, of its body no more than the broker ever sends."""
    body = b""
    while len(body) < MAX_ANSWER_BYTES and (data := await response.content.readany()):
        body += data
    return Answer(response.status, response.headers.get("Retry-After"), body)


class Publisher:
    """Posts events.

    Args:
        session: of whom the connections are.
        token: sent with every request.
        timeout_seconds: for one attempt.
        patience_seconds: for an event with all its retries; 0 tries once, and makes no key.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        token: Token | None,
        *,
        timeout_seconds: float,
        patience_seconds: float,
    ) -> None:
        self._session = session
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._keyless_until = 0.0  # loop time; the broker has no room for keys before

    async def one(self, url: str, data: bytes, key: str | None) -> Answer:
        """Post one event until it is answered 201. Raises `PublishError`.

        Without a `key` it makes one. Where the broker has no room to remember a new key (429), it goes without, unless an
        attempt is in doubt, and is then repeated only after a failure that shows it was not published.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_seconds
        made = key is None and self._patience_seconds > 0 and loop.time() >= self._keyless_until
        if made:
            key = secrets.token_urlsafe(KEY_BYTES)
        backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        while True:
            try:
                return await self._attempt(url, data, key)
            except PublishError as error:
                if made and error.status == 429:
                    self._keyless_until = loop.time() + (error.retry_after or 0)
                    made, key = False, None
                    continue
                made = made and error.status == 429
                seconds = max(backoff.next(), error.retry_after or 0)
                if not _repeatable(error, key) or loop.time() + seconds > deadline:
                    raise
            await asyncio.sleep(seconds)

    async def _attempt(self, url: str, data: bytes, key: str | None) -> Answer:
        headers = {**await authorization(self._token), "Content-Type": "text/plain; charset=utf-8"}
        if key is not None:
            headers["Idempotency-Key"] = key
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        try:
            async with self._session.post(
                url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error
        if answer.status != 201:
            raise problem(PublishError, answer.status, answer.retry_after, answer.body)
        return answer

    async def ask(self, url: str) -> None:
        """Post nothing, to be answered 202. Raises `PublishError`."""
        headers = await authorization(self._token)
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        try:
            async with self._session.post(
                url, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error
        if answer.status != HTTPStatus.ACCEPTED:
            raise problem(PublishError, answer.status, answer.retry_after, answer.body)

    async def stream(self, url: str, chunks: AsyncIterable[bytes]) -> Answer:
        """Post one NDJSON body, each chunk as it comes; the answer may come before its end.

        Raises:
            PublishError: with the members `line` and `published` where the broker tells.
            Exception: what `chunks` raises; the body is cut then.
        """
        headers = {**await authorization(self._token), "Content-Type": "application/x-ndjson"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_seconds)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                body = _Body(chunks, lambda: limit.reschedule(loop.time() + self._timeout_seconds))
                async with self._session.post(
                    url, data=aiter(body), headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    answer = await read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if body.error is not None:
                raise body.error from None
            raise _unreachable(url, error) from error
        if answer.status != 200:
            raise problem(PublishError, answer.status, answer.retry_after, answer.body)
        return answer


class _Body:
    """A request's body; keeps what its source raises, which aiohttp hides behind an error of its own."""

    def __init__(self, chunks: AsyncIterable[bytes], on_end: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self._chunks = chunks
        self._on_end = on_end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise
        self._on_end()


async def ndjson(
    events: AsyncIterable[str | Event] | Iterable[str | Event], *, named: bool
) -> AsyncIterator[bytes]:
    """A line for each event, at once where they come one by one; `named`: with its topic."""
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield _line(event, named=named)
        return
    joined = bytearray()
    for event in events:
        joined += _line(event, named=named)
        if len(joined) >= JOINED_BYTES:
            yield bytes(joined)
            joined.clear()
    if joined:
        yield bytes(joined)


def _line(event: str | Event, *, named: bool) -> bytes:
    if isinstance(event, str):
        event = Event(event)
    value = {"data": event.data}
    if event.type is not None:
        value["event"] = event.type
    if named and event.topic is not None:
        value["topic"] = event.topic
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _repeatable(error: PublishError, key: str | None) -> bool:
    """Whether the event may be posted again without being published twice."""
    if key is not None:
        return error.passing
    return error.status == 429 or isinstance(error.__cause__, aiohttp.ClientConnectorError)


def _unreachable(url: str, error: BaseException) -> PublishError:
    return PublishError(UNREACHABLE, f"No answer from {url}: {reason(error)}.")
