"""`Client`: publishes and subscribes to one broker, over one aiohttp session."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Self
from weakref import WeakSet

import aiohttp

from broker.client.address import base_url, publish_query, topic_url
from broker.client.errors import PublishError, SubscribeError, json_object
from broker.client.publishing import Published, Publisher, encode_ndjson
from broker.client.reading import HISTORY_BYTES, History, decode_history, history_url
from broker.client.requests import Requests, Response, Token, make_socket
from broker.client.streaming import FAILED, Stream
from broker.client.subscription import Subscription
from broker.client.types import ClientOptions, Connection, StartOptions
from broker.events import Event

INCOMPLETE = frozenset({"abandoned", "deleted", FAILED})
"""Reasons of an end that leave a topic incomplete against its publisher's will."""


class Client:
    """A client of the broker at `url`. An async context manager; without `async with`, call `close`.

    Args:
        url: `http[s]://host[:port][/path]`.
        token: a bearer token, or an async function that returns one, called before each request. With a function, a
            subscription continues after its token has expired.
        session: a session with other TLS or proxy settings; the caller closes it. Each subscription needs a connection
            of its own: mind the limit of the session's connector.
        timeout_seconds: limit for one attempt to publish, and for connecting a subscription.
        patience_seconds: limit for a publish with its retries; 0 tries once. Keep it below the broker's
            `idempotency_seconds`.
        silence_seconds: a stream that sends no byte for this time is reconnected. Use three of the broker's heartbeats.
        max_delay_seconds: the longest wait between two attempts to connect.
        max_event_bytes: the largest event accepted from a stream, as encoded there.

    Raises:
        ValueError: `url` is not the URL of a broker.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout_seconds: float = 10.0,
        patience_seconds: float = 30.0,
        silence_seconds: float = 45.0,
        max_delay_seconds: float = 60.0,
        max_event_bytes: int = 16 << 20,
    ) -> None:
        self.url = base_url(url)
        self._token = token
        self._callers_session = session
        self._own_session: aiohttp.ClientSession | None = None
        self._options = ClientOptions(
            timeout_seconds, patience_seconds, silence_seconds, max_delay_seconds, max_event_bytes
        )
        self._publisher: Publisher | None = None
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all subscriptions and close their connections."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
        self._publisher = None
        if self._own_session is not None:
            await self._own_session.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._callers_session is not None:
            return self._callers_session
        if self._own_session is None:
            connector = aiohttp.TCPConnector(limit=0, socket_factory=make_socket)
            self._own_session = aiohttp.ClientSession(connector=connector)
        return self._own_session

    # Publish

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
        given = {"retain": retain, "last_viewer": last_viewer}
        query = {name: value for name, value in given.items() if value is not None}
        return Stream(self._make_requests(), self.url, topic, query, self._options.patience_seconds)

    async def cancel(self, topic: str) -> None:
        """Ask the producer of `topic` to stop. Its subscribers get `broker.cancel`. Raises `PublishError`."""
        url = topic_url(PublishError, self.url, [topic]) + "/cancel"
        await self._get_publisher().cancel(url)

    async def delete(self, topic: str) -> None:
        """Remove the events of `topic` and open it again, with the right `admin`. Raises `PublishError`."""
        url = topic_url(PublishError, self.url, [topic])
        await self._make_requests().post(url, None, {}, HTTPStatus.NO_CONTENT, method="DELETE")

    async def history(
        self,
        *topics: str,
        since: str | None = None,
        last: int | None = None,
        cursor: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> History:
        """The events that `topics` still have, oldest first; from the first one without a start.

        Args:
            since, last, cursor: as in `subscribe`.
            before: only events before this id: the newest ones.
            limit: at most so many events, up to 1,000; 100 without it.

        Raises:
            ClientError: the request was not answered, or refused.
        """
        url = history_url(self.url, topics, since=since, last=last, cursor=cursor, before=before, limit=limit)
        requests = self._make_requests()
        response = await requests.post(url, None, {}, HTTPStatus.OK, method="GET", most=HISTORY_BYTES)
        return decode_history(response)

    def _get_publisher(self) -> Publisher:
        if self._publisher is None:
            self._publisher = Publisher(self._make_requests(), self._options.patience_seconds)
        return self._publisher

    def _make_requests(self) -> Requests:
        return Requests(self._session(), self._token, self._options.timeout_seconds)

    # Subscribe

    async def follow(self, topic: str) -> AsyncIterator[Event]:
        """The events of `topic` from the first to the end, over any number of connections; missing events are a `Gap`.

        Raises:
            SubscribeError: as a `Subscription` does. Also at the end, with the code `abandoned`, `deleted` or `failed`, if the
                topic ended for this reason: its events may be incomplete. Other ends, such as that of an answer that was stopped,
                are in `Subscription.ended`.
        """
        events = self.subscribe(topic, since="earliest")
        async with contextlib.aclosing(events):
            async for event in events:
                yield event
        why = events.ended.get(topic, "")
        if why in INCOMPLETE:
            raise SubscribeError(why, f"{topic} ended as {why}, so its events may be incomplete.")

    def subscribe(
        self,
        *topics: str,
        since: str | None = None,
        last: int | None = None,
        cursor: str | None = None,
        on_change: Callable[[Connection], None] | None = None,
    ) -> Subscription:
        """Subscribe to up to 32 topics.

        Give at most one start; without one, only new events come.

        Args:
            since: an id, `earliest`, `latest`, an RFC 3339 time, or a duration before this call, such as `90s`, `10m`, `2h`.
            last: how many events of each topic come first. Until the first event has come, each attempt asks for them again.
            cursor: the `cursor` of an earlier subscription to the same topics, or an event's id; the events after it
                come.
            on_change: called in the event loop when the connection's state changes.

        Raises:
            SubscribeError: a topic name is invalid.
            ValueError: no topic, more than one start, or a cursor that cannot be sent in a header.
        """
        distinct = list(dict.fromkeys(topics))
        subscription = Subscription(
            self._session(),
            self.url,
            distinct,
            StartOptions.of(since=since, last=last, cursor=cursor),
            options=self._options,
            token=self._token,
            on_change=on_change,
        )
        self._subscriptions.add(subscription)
        return subscription
