"""Publishing with retries.

Rules: an event is never published twice. A request with an unknown outcome is repeated only if it carries an
`Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from http import HTTPStatus

import aiohttp

from broker.client.errors import UNREACHABLE, PublishError
from broker.client.requests import Requests
from broker.client.response import NDJSON, TEXT, Response
from broker.client.retries import Retries

KEY_BYTES = 12


class Publisher:
    """Publishes events.

    Args:
        patience_seconds: limit for one event with all its retries; 0 tries once and sends no key.
    """

    def __init__(self, requests: Requests, patience_seconds: float) -> None:
        self._requests = requests
        self._patience_seconds = patience_seconds
        self._keyless_until = 0.0  # loop time; until then the broker has no room for new keys

    async def publish(self, url: str, data: bytes, key: str | None) -> Response:
        """Publish one event and return the 201 response. Raises `PublishError`.

        Without a `key` it makes one. If the broker has no room for a new key (429), it repeats the event without one,
        unless an earlier attempt may have succeeded. A request without a key is repeated only after a failure that shows that the
        event was not published.
        """
        loop = asyncio.get_running_loop()
        retries = Retries(self._patience_seconds, loop.time())
        can_drop_key = key is None and self._patience_seconds > 0 and loop.time() >= self._keyless_until
        if can_drop_key:
            key = secrets.token_urlsafe(KEY_BYTES)
        while True:
            headers = TEXT if key is None else {**TEXT, "Idempotency-Key": key}
            try:
                return await self._requests.send(url, data, headers, HTTPStatus.CREATED)
            except PublishError as error:
                if can_drop_key and error.status == HTTPStatus.TOO_MANY_REQUESTS:
                    self._keyless_until = loop.time() + (error.retry_after or 0)
                    can_drop_key, key = False, None
                    continue
                can_drop_key = False
                if not _is_repeatable(error, key):
                    raise
                await asyncio.sleep(retries.wait_seconds(error, loop.time()))

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


def _is_repeatable(error: PublishError, key: str | None) -> bool:
    """Whether the event can be sent again without the risk of publishing it twice."""
    if key is not None:
        return error.passing
    return error.status == HTTPStatus.TOO_MANY_REQUESTS or isinstance(
        error.__cause__, aiohttp.ClientConnectorError
    )
