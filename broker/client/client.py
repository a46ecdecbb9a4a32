"""`Client`: publishes and subscribes to one broker, over one aiohttp session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self
from weakref import WeakSet

import aiohttp

from broker.client.address import topics_url
from broker.client.publish_methods import PublishMethods
from broker.client.reading import (
    HISTORY_BYTES,
    TOPICS_BYTES,
    History,
    decode_history,
    decode_topics,
    history_url,
)
from broker.client.requests import Token
from broker.client.response import JSON
from broker.client.subscription import Subscription
from broker.client.subscription_state import SubscriptionState
from broker.client.types import ClientOptions, Connection, End, StartOptions, TopicState
from broker.events import Event


class Client(PublishMethods):
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
        options = ClientOptions(
            timeout_seconds, patience_seconds, silence_seconds, max_delay_seconds, max_event_bytes
        )
        super().__init__(url, token=token, session=session, options=options)
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
        await self._close_session()

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
        response = await requests.send(url, None, {}, HTTPStatus.OK, method="GET", most=HISTORY_BYTES)
        return decode_history(response)

    async def topics(self) -> AsyncIterator[TopicState]:
        """All topics of the broker, in the order of their names. Needs the right `admin`.

        Raises:
            ClientError: a request was not answered, or refused.
        """
        after: str | None = None
        while True:
            url = topics_url(self.url, after)
            response = await self._make_requests().send(
                url, None, JSON, HTTPStatus.OK, method="GET", most=TOPICS_BYTES
            )
            page, after = decode_topics(response, after)
            for state in page:
                yield state
            if after is None:
                return

    async def follow(self, topic: str, *, ends: bool = False) -> AsyncIterator[Event]:
        """The events of `topic` from the first to the end, over any number of connections; missing events are a `Gap`.

        Args:
            ends: return an `End` after the last event, and don't raise for the reason in it.

        Raises:
            SubscribeError: as a `Subscription` does. Without `ends` also at the end, with the code `abandoned`, `deleted` or
                `failed`, if the topic ended for this reason: its events may be incomplete.
        """
        events = self.subscribe(topic, since="earliest", ends=True)
        async with contextlib.aclosing(events):
            async for event in events:
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
    ) -> Subscription:
        """Subscribe to up to 32 topics.

        Give at most one start; without one, only new events come.

        Args:
            since: an id, `earliest`, `latest`, an RFC 3339 time, or a duration before this call, such as `90s`, `10m`, `2h`.
            last: how many events of each topic come first. Until the first event has come, each attempt asks for them again.
            cursor: the `cursor` of an earlier subscription to the same topics, or an event's id; the events after it
                come.
            ends: return an `End` after the last event of each topic. None comes for a cursor at or after the end.
            on_change: called in the event loop when the connection's state changes.

        Raises:
            SubscribeError: a topic name is invalid.
            ValueError: no topic, more than one start, or a cursor that cannot be sent in a header.
        """
        session = self._session()
        state = SubscriptionState(
            self.url,
            list(dict.fromkeys(topics)),
            StartOptions.of(since=since, last=last, cursor=cursor),
            self._options,
            ends=ends,
            now=asyncio.get_running_loop().time(),
        )
        subscription = Subscription(
            session, state, options=self._options, token=self._token, on_change=on_change
        )
        self._subscriptions.add(subscription)
        return subscription
