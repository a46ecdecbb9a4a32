"""A stream of events into one topic, such as the answer of a language model: it goes on where it was cut, and has an end.

Rules: one request whose body lasts as long as the stream (contract §2). What is sent is numbered, and kept until the end, so
that after a lost connection it is sent again: the broker, which knows the numbers, publishes nothing twice. So a stream takes
as much memory as the text that was sent, up to a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from broker.client.address import topic_url
from broker.client.backoff import Backoff
from broker.client.credentials import Token, authorization
from broker.client.errors import UNREACHABLE, Cancelled, PublishError, problem, reason
from broker.client.publishing import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, Answer, read

MOST_KEPT_BYTES = 16 << 20
UNSENT_BYTES = 64 << 10
NAME_BYTES = 12
_PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


class Stream:
    """Sends events to a topic, which ends when this is left; made by `Client.stream`, an async context manager.

    Left with an error it ends nothing: the topic's readers are told `abandoned` after the broker's
    `producer_timeout_seconds`, for what they have is not all. Only after `Cancelled`, which is an end in order, it is closed.

    Not for two tasks at once.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        topic: str,
        token: Token | None,
        *,
        query: Mapping[str, str],
        timeout_seconds: float,
        patience_seconds: float,
    ) -> None:
        self._session = session
        self._url = topic_url(PublishError, base, [topic], {**query, "end": "on-disconnect"})
        self._end_url = topic_url(PublishError, base, [topic], {"end": "true"})
        self._token = token
        self._headers = {
            "Content-Type": "application/x-ndjson",
            "Broker-Producer": secrets.token_urlsafe(NAME_BYTES),
        }
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._first = 1  # the number of the first that is kept
        self._sent = 0  # how many of the kept ones have gone out on the present connection
        self._unsent_bytes = 0
        self._finishing = False
        self._moved = asyncio.Event()
        self._limit: asyncio.Timeout | None = None  # of the request; from the body's end on
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="broker client stream")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if error is None:
            self._finishing = True
            self._moved.set()
            try:
                await self._task
            except Cancelled:
                await self._close()
                raise
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, PublishError):
            await self._task
        if isinstance(error, Cancelled):
            await self._close()

    async def send(self, data: str | bytes, event: str | None = None) -> None:
        """Send one event; it waits while the connection takes nothing more, or is away.

        Raises:
            Cancelled: somebody asked this producer to stop.
            PublishError: the broker refuses the stream, or can't be reached for `patience_seconds`.
            ValueError: `data` or `event` has a lone surrogate.
        """
        assert self._task is not None, "a stream is used within `async with`"
        value = {"data": data if isinstance(data, str) else data.decode()}
        if event is not None:
            value["event"] = event
        line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        while self._unsent_bytes > UNSENT_BYTES and not self._task.done():
            self._moved.clear()
            waiting = asyncio.ensure_future(self._moved.wait())
            await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if self._task.done():
            self._task.result()
        self._keep(line)
        self._moved.set()

    async def cancelled(self) -> None:
        """Return once nothing more is wanted, for who waits for the next token rather than sends: `send` then raises why."""
        assert self._task is not None, "a stream is used within `async with`"
        await asyncio.wait((self._task,))

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._kept_bytes += len(line)
        self._unsent_bytes += len(line)
        while self._kept_bytes > MOST_KEPT_BYTES and self._sent:
            self._kept_bytes -= len(self._kept.popleft())
            self._first += 1
            self._sent -= 1

    async def _close(self) -> None:
        """End the topic with what there is. Raises `PublishError`."""
        await self._answer(self._end_url, b"", _PLAIN, HTTPStatus.CREATED)

    # The request, again and again until it has ended well

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        deadline = loop.time() + self._patience_seconds
        while True:
            sent_before = self._first + self._sent
            self._sent, self._unsent_bytes = 0, self._kept_bytes
            headers = {**self._headers, "Broker-Sequence": str(self._first)}
            try:
                await self._answer(self._url, self._body(), headers, HTTPStatus.OK)
            except PublishError as error:
                if self._first + self._sent > sent_before:  # it had gone on meanwhile
                    backoff.reset()
                    deadline = loop.time() + self._patience_seconds
                seconds = max(backoff.next(), error.retry_after or 0)
                if not error.passing or loop.time() + seconds > deadline:
                    raise
                await asyncio.sleep(seconds)
            else:
                return

    async def _body(self) -> AsyncIterator[bytes]:
        while True:
            while self._sent < len(self._kept):
                lines = [self._kept[index] for index in range(self._sent, len(self._kept))]
                self._sent += len(lines)
                chunk = b"".join(lines)
                yield chunk
                self._unsent_bytes -= len(chunk)
                self._moved.set()
            if self._finishing:
                if self._limit is not None:
                    self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout_seconds)
                return
            self._moved.clear()
            await self._moved.wait()

    async def _answer(
        self, url: str, body: AsyncIterator[bytes] | bytes, headers: Mapping[str, str], wanted: HTTPStatus
    ) -> Answer:
        headers = {**headers, **await authorization(self._token)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_seconds)
        try:
            async with asyncio.timeout(self._timeout_seconds if isinstance(body, bytes) else None) as limit:
                self._limit = limit
                async with self._session.post(
                    url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    async with asyncio.timeout(self._timeout_seconds):
                        answer = await read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PublishError(UNREACHABLE, f"No answer from {url}: {reason(error)}.") from error
        finally:
            self._limit = None
        if answer.status != wanted:
            kind = Cancelled if b'"cancelled"' in answer.body and answer.status == 409 else PublishError
            raise problem(kind, answer.status, answer.retry_after, answer.body)
        return answer
