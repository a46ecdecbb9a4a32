"""`BlockingClient`, and `publish` for a single event."""

from __future__ import annotations

import atexit
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from broker.client.address import base_url, publish_query, stream_query, topic_url, topics_url
from broker.client.blocking.connections import ConnectionPool
from broker.client.blocking.requests import BlockingRequests, Token
from broker.client.blocking.streaming import BlockingStream
from broker.client.blocking.subscription import BlockingSubscription
from broker.client.errors import PublishError
from broker.client.reading import (
    HISTORY_BYTES,
    TOPICS_BYTES,
    History,
    decode_history,
    decode_topics,
    history_url,
)
from broker.client.response import JSON, Response
from broker.client.retries import KeyRoom, PublishAttempts
from broker.client.subscription_state import SubscriptionState
from broker.client.types import ClientOptions, Connection, End, StartOptions, TopicState
from broker.events import Event


class BlockingClient:
    """A client of the broker at `url` without asyncio. Its methods are those of `Client`, and are described there.

    Any number of threads may use it at once: it keeps up to ten connections for the next requests. A forked process gets
    connections of its own, so one client may be made before a server forks its workers. It can be used as a context manager;
    without `with`, call `close`, or keep it as long as the process.

    Args:
        url: `http[s]://host[:port][/path]`.
        token: a bearer token, or a function that returns one, called before each request.
        tls: other certificates than the system's.
        timeout_seconds: limit for connecting, for sending, and for each read of a response.
        patience_seconds: how long a publish is retried, and how long a stream tries to reconnect; 0 tries once. Keep it short
            where a web request waits.
        silence_seconds, max_delay_seconds, max_event_bytes: as for `Client`.

    Raises:
        ValueError: `url` is not the URL of a broker.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = 10.0,
        patience_seconds: float = 10.0,
        silence_seconds: float = 45.0,
        max_delay_seconds: float = 60.0,
        max_event_bytes: int = 16 << 20,
    ) -> None:
        self.url = base_url(url)
        self._options = ClientOptions(
            timeout_seconds, patience_seconds, silence_seconds, max_delay_seconds, max_event_bytes
        )
        self._pool = ConnectionPool(tls)
        self._requests = BlockingRequests(self._pool, token, timeout_seconds)
        self._room = KeyRoom()
        # a WeakSet can't be iterated while other threads add to it
        self._subscriptions: WeakValueDictionary[int, BlockingSubscription] = WeakValueDictionary()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all subscriptions and close the kept connections."""
        for reference in self._subscriptions.valuerefs():
            subscription = reference()
            if subscription is not None:
                subscription.close()
        self._pool.close()

    # Publish

    def publish(
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
        """Publish one event and return its id. As `Client.publish`."""
        query = publish_query(event, end=end, retain=retain, reason=reason)
        return str(self._publish([topic], data, query, idempotency_key).member("id"))

    def publish_to(
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
        """Publish one event to up to 32 topics, to all or to none, and return its id in each. As `Client.publish_to`."""
        distinct = list(dict.fromkeys(topics))
        query = publish_query(event, end=end, retain=retain, reason=reason)
        response = self._publish(distinct, data, query, idempotency_key)
        if len(distinct) == 1:
            return {distinct[0]: str(response.member("id"))}
        return {str(topic): str(event_id) for topic, event_id in dict(response.member("ids")).items()}

    def _publish(
        self, topics: Sequence[str], data: str | bytes, query: Mapping[str, str], key: str | None
    ) -> Response:
        url = topic_url(PublishError, self.url, topics, query)
        patience = self._options.patience_seconds
        return _publish(self._requests, self._room, url, data, key, patience)

    def end(self, topic: str, reason: str | None = None) -> None:
        """Close `topic`. As `Client.end`."""
        self.publish(topic, b"", end=True, reason=reason)

    def stream(
        self, topic: str, *, retain: str | None = None, last_viewer: str | None = None
    ) -> BlockingStream:
        """A stream of events into `topic`. The topic is closed at the end of the block. As `Client.stream`:

        with client.stream("answers.7", retain="24h") as stream:
            for token in tokens:
                stream.send(token)
        """
        query = stream_query(retain=retain, last_viewer=last_viewer)
        return BlockingStream(self._requests, self.url, topic, query, self._options.patience_seconds)

    def cancel(self, topic: str) -> None:
        """Ask the producer of `topic` to stop. As `Client.cancel`."""
        url = topic_url(PublishError, self.url, [topic]) + "/cancel"
        self._requests.send(url, None, {}, HTTPStatus.ACCEPTED)

    def delete(self, topic: str) -> None:
        """Remove the events of `topic` and open it again. As `Client.delete`."""
        url = topic_url(PublishError, self.url, [topic])
        self._requests.send(url, None, {}, HTTPStatus.NO_CONTENT, method="DELETE")

    # Read

    def history(
        self,
        *topics: str,
        since: str | None = None,
        last: int | None = None,
        cursor: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> History:
        """The events that `topics` still have. As `Client.history`."""
        url = history_url(self.url, topics, since=since, last=last, cursor=cursor, before=before, limit=limit)
        return decode_history(
            self._requests.send(url, None, {}, HTTPStatus.OK, method="GET", most=HISTORY_BYTES)
        )

    def topics(self) -> Iterator[TopicState]:
        """All topics of the broker, in the order of their names. As `Client.topics`."""
        after: str | None = None
        while True:
            url = topics_url(self.url, after)
            response = self._requests.send(url, None, JSON, HTTPStatus.OK, method="GET", most=TOPICS_BYTES)
            page, after = decode_topics(response, after)
            yield from page
            if after is None:
                return

    def follow(self, topic: str, *, ends: bool = False) -> Iterator[Event]:
        """The events of `topic` from the first to the end. As `Client.follow`."""
        with self.subscribe(topic, since="earliest", ends=True) as events:
            for event in events:
                if ends or not isinstance(event, End):
                    yield event
                else:
                    event.raise_if_incomplete()

    def subscribe(
        self,
        *topics: str,
        since: str | None = None,
        last: int | None = None,
        cursor: str | None = None,
        ends: bool = False,
        on_change: Callable[[Connection], None] | None = None,
    ) -> BlockingSubscription:
        """Subscribe to up to 32 topics. As `Client.subscribe`; `on_change` is called in the thread that iterates."""
        state = SubscriptionState(
            self.url,
            list(dict.fromkeys(topics)),
            StartOptions.of(since=since, last=last, cursor=cursor),
            self._options,
            ends=ends,
            now=time.monotonic(),
        )
        subscription = BlockingSubscription(self._requests, state, options=self._options, on_change=on_change)
        self._subscriptions[id(subscription)] = subscription
        return subscription


_shared_pool = ConnectionPool()
_shared_room = KeyRoom()
atexit.register(_shared_pool.close)


def publish(
    url: str,
    topic: str,
    data: str | bytes,
    event: str | None = None,
    *,
    timeout: float = 10.0,
    idempotency_key: str | None = None,
    token: str | None = None,
    end: bool = False,
    retain: str | None = None,
    reason: str | None = None,
) -> str:
    """Publish one event and return its id. Makes one attempt.

    All calls in a process share up to ten kept connections, safely with threads and forks. If the broker has closed a kept
    connection, the event is sent once more on a new one; an idempotency key ensures that it is published only once.

    Args:
        url: the broker's URL, such as `http://127.0.0.1:8080`.
        data: text, or UTF-8 bytes.
        event: the event's type.
        timeout: limit in seconds for connecting, for sending, and for each read.
        idempotency_key: 1 to 200 visible ASCII characters; by default a new key for each call. Calls with the same key publish
            the event once.
        token: a bearer token.
        end: close the topic together with this event, or without an event if `data` is empty.
        retain: how long the topic keeps its events, if it is new: a duration such as `24h`.
        reason: why the topic ends, such as `failed`; needs `end`.

    Raises:
        PublishError: the event was not published. With the code `unreachable` it may have been published.
        ValueError: `url` is not the URL of a broker, or `data` has a lone surrogate.
    """
    query = publish_query(event, end=end, retain=retain, reason=reason)
    address = topic_url(PublishError, base_url(url), [topic], query)
    requests = BlockingRequests(_shared_pool, token, timeout)
    return str(_publish(requests, _shared_room, address, data, idempotency_key, 0).member("id"))


def _publish(
    requests: BlockingRequests,
    room: KeyRoom,
    url: str,
    data: str | bytes,
    key: str | None,
    patience_seconds: float,
) -> Response:
    body = data.encode() if isinstance(data, str) else data
    attempts = PublishAttempts(key, room, patience_seconds, time.monotonic())
    while True:
        try:
            return requests.send(
                url,
                body,
                attempts.headers,
                HTTPStatus.CREATED,
                repeatable=attempts.key is not None,
                on_repeat=attempts.keep_key,
            )
        except PublishError as error:
            time.sleep(attempts.wait_seconds(error, time.monotonic(), was_sent=error.was_sent))
