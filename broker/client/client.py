"""`Client`: one broker, any number of publishes and subscriptions, over one aiohttp session."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import aiohttp

from broker.client.address import base_url, topic_url
from broker.client.credentials import Token
from broker.client.errors import PublishError, SubscribeError, json_object, unexpected
from broker.client.publishing import Answer, Published, Publisher, ndjson
from broker.client.streaming import Stream
from broker.client.subscription import Subscription
from broker.client.words import Connection, Limits, Start
from broker.events import Event

UNACKNOWLEDGED_MS = 20_000


class Client:
    """A broker at `url`. An async context manager; used without `async with`, `close` it.

    Args:
        url: `http[s]://host[:port][/path]`.
        token: for `Authorization: Bearer`; or an async function that gives one, called before each request: a stream that
            ends with its token goes on with the next.
        session: for other TLS or proxy settings; it stays the caller's to close. Mind its connector's limit: each
            subscription holds a connection.
        timeout_seconds: for one attempt to publish, and for connecting a subscription.
        patience_seconds: for a publish with its retries; 0 tries once. Less than the broker's `idempotency_seconds`.
        silence_seconds: after which a stream without a byte is given up and connected anew; three of the broker's heartbeats.
        max_delay_seconds: the longest wait between two attempts to connect.
        max_event_bytes: bound on an event of a stream, as it is on the wire.

    Raises:
        ValueError: `url` is none.
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
        self._given = session
        self._own: aiohttp.ClientSession | None = None
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._limits = Limits(timeout_seconds, silence_seconds, max_delay_seconds, max_event_bytes)
        self._publisher: Publisher | None = None
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all subscriptions and close the connections."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
        self._publisher = None
        if self._own is not None:
            await self._own.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket))
        return self._own

    # Publish

    async def publish(
        self, topic: str, data: str | bytes, event: str | None = None, idempotency_key: str | None = None
    ) -> str:
        """Publish one event and return its id; once it returns, the event is in the broker's store.

        Where no answer comes, or a 429 or 5xx that may pass, it is sent again, for `patience_seconds` and by an idempotency
        key, so that it is published at most once.

        Args:
            data: text, or UTF-8 bytes.
            event: its type.
            idempotency_key: 1 to 200 visible ASCII characters, to be recognised by across calls; else each call makes its own.

        Raises:
            PublishError: it was not published; with the code `unreachable` nobody knows, but calling again with the same key
                finds out.
            ValueError: `data` or `event` has a lone surrogate, or the key can't be a header.
        """
        url = topic_url(PublishError, self.url, [topic], _typed(event))
        answer = await self._posts().one(url, _encoded(data), idempotency_key)
        return str(_member(answer, "id"))

    async def publish_to(
        self,
        topics: Sequence[str],
        data: str | bytes,
        event: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, str]:
        """Publish one event to each of up to 32 topics, all or none; returns its id by topic. Else like `publish`."""
        distinct = list(dict.fromkeys(topics))
        if len(distinct) == 1:
            return {distinct[0]: await self.publish(distinct[0], data, event, idempotency_key)}
        url = topic_url(PublishError, self.url, distinct, _typed(event))
        answer = await self._posts().one(url, _encoded(data), idempotency_key)
        return {str(topic): str(event_id) for topic, event_id in dict(_member(answer, "ids")).items()}

    async def publish_lines(
        self, topic: str | None, events: AsyncIterable[str | Event] | Iterable[str | Event]
    ) -> Published:
        """Publish a stream of events in one request, each as it comes; much cheaper than a `publish` for each.

        There are no retries, for what arrived of a cut stream nobody knows: where that matters, use `publish`.

        Args:
            topic: None takes each event's own.
            events: an `Event` (of which `data`, `type` and `topic` count) or its data. An iterable that isn't async is
                for what is at hand: waiting in it stops the event loop.

        Raises:
            PublishError: the stream was refused or cut. With the members `line`, the number of the bad line, and
                `published`, how many before it stand, where the broker tells.
            Exception: what `events` raises; what came before it is published.
        """
        return await self.publish_ndjson(topic, ndjson(events, named=topic is None))

    async def publish_ndjson(self, topic: str | None, chunks: AsyncIterable[bytes]) -> Published:
        """The same for what is NDJSON already, cut anywhere."""
        url = f"{self.url}/topics" if topic is None else topic_url(PublishError, self.url, [topic])
        answer = await self._posts().stream(url, chunks)
        count = _member(answer, "published")
        members = json_object(answer.body)
        return Published(int(count), members.get("first_id"), members.get("last_id"))

    def stream(self, topic: str, *, retain: str | None = None, last_viewer: str | None = None) -> Stream:
        """A stream of events into `topic`, which ends when the stream is left:

            async with client.stream("answers.7", retain="24h") as stream:
                async for token in tokens:
                    await stream.send(token)

        After a lost connection it goes on where it was, for `patience_seconds`; nothing is published twice.

        Args:
            retain: how long the topic, if it is new, is to keep its events, as an age such as `24h`.
            last_viewer: the age after which a stream that nobody watches is cancelled.

        Raises:
            PublishError: a name that is none; else see `Stream`.
        """
        given = {"retain": retain, "last_viewer": last_viewer}
        return Stream(
            self._session(),
            self.url,
            topic,
            self._token,
            query={name: value for name, value in given.items() if value is not None},
            timeout_seconds=self._timeout_seconds,
            patience_seconds=self._patience_seconds,
        )

    async def cancel(self, topic: str) -> None:
        """Ask whoever publishes a stream to `topic` to stop, and tell its subscribers. Raises `PublishError`."""
        url = topic_url(PublishError, self.url, [topic]) + "/cancel"
        await self._posts().ask(url)

    def _posts(self) -> Publisher:
        if self._publisher is None:
            self._publisher = Publisher(
                self._session(),
                self._token,
                timeout_seconds=self._timeout_seconds,
                patience_seconds=self._patience_seconds,
            )
        return self._publisher

    # Subscribe

    async def follow(self, topic: str) -> AsyncIterator[Event]:
        """The events of `topic` from its first to its end, through any number of reconnects; a gap comes as a `Gap`.

        Raises:
            SubscribeError: as a `Subscription` does; and at the end, with the code `abandoned` or `deleted`, where the topic
                was not closed by its publisher, so that what came is not all.
        """
        events = self.subscribe(topic, since="earliest")
        async with contextlib.aclosing(events):
            async for event in events:
                yield event
        why = events.ended.get(topic, "closed")
        if why != "closed":
            raise SubscribeError(why, f"{topic} has no end of its publisher's: it was {why}.")

    def subscribe(
        self,
        *topics: str,
        since: str | None = None,
        last: int | None = None,
        cursor: str | None = None,
        on_change: Callable[[Connection], None] | None = None,
    ) -> Subscription:
        """Follow up to 32 topics; the events are those of the `Subscription` that this returns.

        At most one of these says where it starts, else it is live only (contract §3):

        Args:
            since: an id, `earliest`, `latest`, an RFC 3339 time, or an age such as `90s`, `10m`, `2h` before this call.
            last: so many events back in each topic; asked for anew with each attempt until something has come.
            cursor: the `cursor` of an earlier subscription to the same topics, or an event's id: what came after it.
            on_change: called with each change of the connection's state, in the event loop.

        Raises:
            SubscribeError: a name that is none.
            ValueError: no topic, more than one start, or a cursor that can't be one.
        """
        distinct = list(dict.fromkeys(topics))
        subscription = Subscription(
            self._session(),
            self.url,
            distinct,
            Start.of(since=since, last=last, cursor=cursor),
            limits=self._limits,
            token=self._token,
            on_change=on_change,
        )
        self._subscriptions.add(subscription)
        return subscription


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """One that is given up when the other side acknowledges nothing any more; else a stream would send into the void for long."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    with contextlib.suppress(OSError, AttributeError):  # not everywhere, and not on every kind
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    return made


def _encoded(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _typed(event: str | None) -> dict[str, str]:
    return {} if event is None else {"event": event}


def _member(answer: Answer, name: str) -> Any:
    try:
        return json_object(answer.body)[name]
    except (ValueError, KeyError):
        raise unexpected(PublishError, f"The answer has no {name!r}", answer.status) from None
