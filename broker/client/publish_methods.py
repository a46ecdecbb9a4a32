"""The part of `Client` that publishes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from http import HTTPStatus

import aiohttp

from broker.client.address import publish_query, stream_query, topic_url
from broker.client.base_client import BaseClient
from broker.client.errors import PublishError, json_object
from broker.client.ndjson import encode_ndjson
from broker.client.publishing import Publisher
from broker.client.requests import Token
from broker.client.response import Response
from broker.client.streaming import Stream
from broker.client.types import ClientOptions, Published
from broker.events import Event


class PublishMethods(BaseClient):
    """Publishes events, streams and ends to the broker."""

    def __init__(
        self, url: str, *, token: Token | None, session: aiohttp.ClientSession | None, options: ClientOptions
    ) -> None:
        super().__init__(url, token=token, session=session, options=options)
        self._publisher: Publisher | None = None

    async def publish(
        self,
        topic: str,
        data: str | bytes,
        event: str | None = None,
        idempotency_key: str | None = None,
        *,
        end: bool = False,
        retain: str | None = None,
        reason: str | None = None,
    ) -> str:
        """Publish one event and return its id. When this returns, the event is in the broker's store.

        Without a response, or after a temporary status (429, 5xx), the request is repeated for `patience_seconds`. An
        idempotency key ensures that the event is published at most once.

        Args:
            data: text, or UTF-8 bytes.
            event: the event's type.
            idempotency_key: 1 to 200 visible ASCII characters; by default a new key for each call. Calls with the same
                key publish the event once.
            end: close the topic together with this event, or without an event if `data` is empty.
            retain: how long the topic keeps its events, if it is new: a duration such as `24h`.
            reason: why the topic ends, such as `failed`; needs `end`.

        Raises:
            PublishError: the event was not published. With the code `unreachable` it may have been published: call again
                with the same key.
            ValueError: `data` or `event` has a lone surrogate, or the key cannot be sent in a header.
        """
        query = publish_query(event, end=end, retain=retain, reason=reason)
        response = await self._publish_event([topic], data, query, idempotency_key)
        return str(response.member("id"))

    async def publish_to(
        self,
        topics: Sequence[str],
        data: str | bytes,
        event: str | None = None,
        idempotency_key: str | None = None,
        *,
        end: bool = False,
        retain: str | None = None,
        reason: str | None = None,
    ) -> dict[str, str]:
        """Publish one event to up to 32 topics, to all or to none, and return its id in each. Otherwise like `publish`."""
        distinct = list(dict.fromkeys(topics))
        query = publish_query(event, end=end, retain=retain, reason=reason)
        response = await self._publish_event(distinct, data, query, idempotency_key)
        if len(distinct) == 1:
            return {distinct[0]: str(response.member("id"))}
        return {str(topic): str(event_id) for topic, event_id in dict(response.member("ids")).items()}

    async def _publish_event(
        self, topics: Sequence[str], data: str | bytes, query: Mapping[str, str], key: str | None
    ) -> Response:
        url = topic_url(PublishError, self.url, topics, query)
        return await self._get_publisher().publish(url, data.encode() if isinstance(data, str) else data, key)

    async def end(self, topic: str, reason: str | None = None) -> None:
        """Close `topic`; harmless if it is closed, and then the first reason stands. Raises `PublishError`."""
        await self.publish(topic, b"", end=True, reason=reason)

    async def publish_lines(
        self, topic: str | None, events: AsyncIterable[str | Event] | Iterable[str | Event]
    ) -> Published:
        """Publish many events in one request, each as it comes. Much cheaper than a `publish` for each, but without retries.

        Args:
            topic: None publishes each event to its own topic.
            events: an `Event` (its `data`, `type` and `topic` are used) or its data. A synchronous iterable must not wait:
                it would block the event loop.

        Raises:
            PublishError: the request was refused or cut. Its members `line` (the number of the bad line) and `published`
                (how many events before it were published) are there if the broker sent them.
            Exception: an exception of `events`; the events before it are published.
        """
        return await self.publish_ndjson(topic, encode_ndjson(events, with_topic=topic is None))

    async def publish_ndjson(self, topic: str | None, chunks: AsyncIterable[bytes]) -> Published:
        """Like `publish_lines`, for a body in NDJSON, in chunks of any size."""
        url = f"{self.url}/topics" if topic is None else topic_url(PublishError, self.url, [topic])
        response = await self._get_publisher().publish_ndjson(url, chunks)
        count = response.member("published")
        members = json_object(response.body)
        return Published(int(count), members.get("first_id"), members.get("last_id"))

    def stream(self, topic: str, *, retain: str | None = None, last_viewer: str | None = None) -> Stream:
        """A stream of events into `topic`. The topic is closed at the end of the block:

            async with client.stream("answers.7", retain="24h") as stream:
                async for token in tokens:
                    await stream.send(token)

        After a lost connection the stream continues, for `patience_seconds`; nothing is published twice.

        Args:
            retain: how long the topic keeps its events, if it is new: a duration such as `24h`.
            last_viewer: the stream is cancelled after this time without a subscriber: a duration such as `60s`.

        Raises:
            PublishError: the topic name is invalid. `Stream` lists the other errors.
        """
        query = stream_query(retain=retain, last_viewer=last_viewer)
        return Stream(self._make_requests(), self.url, topic, query, self._options.patience_seconds)

    async def cancel(self, topic: str) -> None:
        """Ask the producer of `topic` to stop. Its subscribers get `broker.cancel`. Raises `PublishError`."""
        url = topic_url(PublishError, self.url, [topic]) + "/cancel"
        await self._get_publisher().cancel(url)

    async def delete(self, topic: str) -> None:
        """Remove the events of `topic` and open it again, with the right `admin`. Raises `PublishError`."""
        url = topic_url(PublishError, self.url, [topic])
        await self._make_requests().send(url, None, {}, HTTPStatus.NO_CONTENT, method="DELETE")

    def _get_publisher(self) -> Publisher:
        if self._publisher is None:
            self._publisher = Publisher(self._make_requests(), self._options.patience_seconds)
        return self._publisher
