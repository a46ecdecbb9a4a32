"""Publishing with retries.

Rules: an event is never published twice. A request with an unknown outcome is repeated only if it carries an
`Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from broker.backoff import Backoff
from broker.client.errors import UNREACHABLE, PublishError
from broker.client.requests import NDJSON, TEXT, Requests, Response
from broker.events import Event

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
BATCH_BYTES = 32 << 10
KEY_BYTES = 12


@dataclass(frozen=True, slots=True)
class Published:
    """How many events a request published, and the first and last id.

    The ids are None if nothing was published, or if each event named its own topic.
    """

    count: int
    first_id: str | None = None
    last_id: str | None = None


class Retries:
    """Repeats a failed request for `patience_seconds`; 0 never repeats. Belongs to a running event loop."""

    def __init__(self, patience_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience_seconds = patience_seconds
        self._backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        self.restart()

    def restart(self) -> None:
        """Start the `patience_seconds` again, because there was progress."""
        self._backoff.reset()
        self._deadline = self._loop.time() + self._patience_seconds

    async def wait(self, error: PublishError) -> None:
        """Wait until the next attempt. Raises `error` if that would be too late."""
        seconds = max(self._backoff.next(), error.retry_after or 0)
        if self._loop.time() + seconds > self._deadline:
            raise error
        await asyncio.sleep(seconds)


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
        retries = Retries(self._patience_seconds)
        can_drop_key = key is None and self._patience_seconds > 0 and loop.time() >= self._keyless_until
        if can_drop_key:
            key = secrets.token_urlsafe(KEY_BYTES)
        while True:
            headers = TEXT if key is None else {**TEXT, "Idempotency-Key": key}
            try:
                return await self._requests.post(url, data, headers, HTTPStatus.CREATED)
            except PublishError as error:
                if can_drop_key and error.status == HTTPStatus.TOO_MANY_REQUESTS:
                    self._keyless_until = loop.time() + (error.retry_after or 0)
                    can_drop_key, key = False, None
                    continue
                can_drop_key = False
                if not _is_repeatable(error, key):
                    raise
                await retries.wait(error)

    async def cancel(self, url: str) -> None:
        """Send a cancellation, without retries. Raises `PublishError`."""
        await self._requests.post(url, None, {}, HTTPStatus.ACCEPTED)

    async def publish_ndjson(self, url: str, chunks: AsyncIterable[bytes]) -> Response:
        """Publish a streamed NDJSON body, each chunk as it comes. The response may come before the end of the body.

        Raises:
            PublishError: the members `line` and `published` say how far it got, if the broker sent them.
            Exception: an exception of `chunks`; the body is cut then.
        """
        limit = asyncio.timeout(None)
        body = _RequestBody(chunks, limit, self._requests.timeout_seconds)
        try:
            return await self._requests.post(url, aiter(body), NDJSON, HTTPStatus.OK, limit)
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


async def encode_ndjson(
    events: AsyncIterable[str | Event] | Iterable[str | Event], *, with_topic: bool
) -> AsyncIterator[bytes]:
    """NDJSON lines. Events of an async iterable come one by one, others in chunks of about `BATCH_BYTES`."""
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield _line(event, with_topic=with_topic)
        return
    batch = bytearray()
    for event in events:
        batch += _line(event, with_topic=with_topic)
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


def _line(event: str | Event, *, with_topic: bool) -> bytes:
    if isinstance(event, str):
        event = Event(event)
    return ndjson_line(event.data, event.type, event.topic if with_topic else None)


def ndjson_line(data: str, event_type: str | None = None, topic: str | None = None) -> bytes:
    """One event as a line of NDJSON. Raises `ValueError` for a lone surrogate."""
    members = {"data": data, "event": event_type, "topic": topic}
    present = {name: value for name, value in members.items() if value is not None}
    return json.dumps(present, ensure_ascii=False).encode() + b"\n"


def _is_repeatable(error: PublishError, key: str | None) -> bool:
    """Whether the event can be sent again without the risk of publishing it twice."""
    if key is not None:
        return error.passing
    return error.status == HTTPStatus.TOO_MANY_REQUESTS or isinstance(
        error.__cause__, aiohttp.ClientConnectorError
    )
