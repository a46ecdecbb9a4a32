"""Publishing with retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from http import HTTPStatus

import aiohttp

from broker.client.errors import UNREACHABLE, PublishError
from broker.client.requests import Requests
from broker.client.response import NDJSON, Response
from broker.client.retries import KeyRoom, PublishAttempts


class Publisher:
    """Publishes events.

    Args:
        patience_seconds: limit for one event with all its retries; 0 tries once and sends no key.
    """

    def __init__(self, requests: Requests, patience_seconds: float) -> None:
        self._requests = requests
        self._patience_seconds = patience_seconds
        self._room = KeyRoom()

    async def publish(self, url: str, data: bytes, key: str | None) -> Response:
        """Publish one event and return the 201 response. Raises `PublishError`. Without a `key` it makes one."""
        loop = asyncio.get_running_loop()
        room = self._room if self._patience_seconds > 0 else None
        attempts = PublishAttempts(key, room, self._patience_seconds, loop.time())
        while True:
            try:
                return await self._requests.send(url, data, attempts.headers, HTTPStatus.CREATED)
            except PublishError as error:
                was_sent = not isinstance(error.__cause__, aiohttp.ClientConnectorError)
                await asyncio.sleep(attempts.wait_seconds(error, loop.time(), was_sent=was_sent))

    async def cancel(self, url: str) -> None:
        """Send a cancellation, without retries. Raises `PublishError`."""
        await self._requests.send(url, None, {}, HTTPStatus.ACCEPTED)

    async def publish_ndjson(self, url: str, chunks: AsyncIterable[bytes]) -> Response:
        """Publish a streamed NDJSON body, each chunk as it comes. The response may come before the end of the body.

        Raises:
            PublishError: the members `line` and `published` say how far it got, if the broker sent them.
            Exception: an exception of `chunks`; the body is cut then.
        """
        limit = asyncio.timeout(None)
        body = _RequestBody(chunks, limit, self._requests.timeout_seconds)
        try:
            return await self._requests.send(url, aiter(body), NDJSON, HTTPStatus.OK, limit)
        except PublishError as error:
            if error.code == UNREACHABLE and body.error is not None:
                raise body.error from None
            raise


class _RequestBody:
    """A streamed body. Keeps an exception of its source, which aiohttp would hide, and limits the time after its end."""

    def __init__(self, chunks: AsyncIterable[bytes], limit: asyncio.Timeout, timeout_seconds: float) -> None:
        self.error: Exception | None = None
        self._chunks = chunks
        self._limit = limit
        self._timeout_seconds = timeout_seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise
        self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout_seconds)
