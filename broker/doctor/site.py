"""The path to a broker, as checks use it: requests, streams, topics of their own.

Rules: the token is sent only to the URL that was given, and redirects are not followed. Every topic is registered, so that
`clean` removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from multidict import CIMultiDict

from broker.client.errors import reason
from broker.doctor import wire

REQUEST_SECONDS = 10.0
RETAIN = "60s"
"""How long the broker keeps the events of a topic that can't be deleted."""
ATTEMPTS = 3
MAX_WAIT_SECONDS = 3.0
CLEAN_SECONDS = 5.0
POSTS = "posts"
"""The topic of the checks that only publish."""
MAX_BODY_BYTES = 1 << 20
NOTHING: Mapping[str, str] = MappingProxyType({})
EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
"""What a browser's EventSource sends."""


@dataclass(frozen=True, slots=True)
class Target:
    """The broker to examine, and how.

    Attributes:
        url: of the broker, as `broker.client.address.base_url` returns it.
        token: a bearer token.
        prefix: topics are named `PREFIX.<random>-…`.
        origin: of a page that uses the broker from another site.
        idle_seconds: how long streams are watched.
        ca_file: certificate authorities to trust instead of the system's.
    """

    url: str
    token: str | None = None
    prefix: str = "doctor"
    origin: str | None = None
    idle_seconds: float = 45.0
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response; `sent_at` and `received_at` are in seconds since 1970."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    sent_at: float
    received_at: float

    def json(self) -> dict[str, Any]:
        """The JSON object in the body; empty if it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def code(self) -> str:
        """The code of the broker's problem response; "" if this is none."""
        code = self.json().get("code")
        is_problem = self.headers.get("Content-Type", "").startswith("application/problem+json")
        return code if is_problem and isinstance(code, str) else ""

    @property
    def detail(self) -> str:
        """The problem's explanation."""
        return str(self.json().get("detail", ""))


class RequestFailed(Exception):
    """There was no response; the text says why."""


class NothingArrived(Exception):
    """A stream brought nothing; the text names what should have come. A path that buffers explains it."""


@dataclass(slots=True)
class Site:
    """A target, and the facts about it that checks share.

    Attributes:
        hops: names of the proxies that were recognised, as `hops` has them; the nearest first.
        token_in_query: whether the token goes in the query, because a proxy removes it from the header.
        has_broker: whether a broker has answered.
        is_admin: whether the token has the admin right.
        may_retain: whether the broker's settings allow `RETAIN`.
        first_heartbeat: seconds of silence before the broker's first heartbeat, once known; None if there was none before the
            stream was cut, or in `idle_seconds`.
    """

    target: Target
    session: aiohttp.ClientSession
    context: ssl.SSLContext | None
    hops: Sequence[str] = ()
    token_in_query: bool = False
    has_broker: bool = False
    is_admin: bool = False
    may_retain: bool = True
    first_heartbeat: asyncio.Future[float | None] = field(init=False)
    _name: str = field(default_factory=lambda: secrets.token_hex(6))
    _topics: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first_heartbeat = asyncio.get_running_loop().create_future()

    @property
    def hop(self) -> str | None:
        """The proxy, if exactly one was recognised."""
        return self.hops[0] if len(self.hops) == 1 else None

    @property
    def origin(self) -> str:
        """The origin of the site's own pages."""
        parts = urlsplit(self.target.url)
        return f"{parts.scheme}://{parts.netloc}"

    def topic(self, name: str) -> str:
        """The topic of this examination with this name. The broker remembers the name of each for days, so they are few."""
        topic = f"{self.target.prefix}.{self._name}-{name}"
        self._topics[topic] = None
        return topic

    # Requests

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        body: bytes | None = None,
        *,
        with_token: bool = True,
    ) -> Reply:
        """Send a request for `path` below the target's URL. Raises `RequestFailed`."""
        target, sent = self._addressed(path, query, headers, with_token=with_token)
        sent.setdefault("Accept-Encoding", "identity")
        loop_time = asyncio.get_running_loop().time
        started, sent_at = loop_time(), time.time()
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                self.session.request(
                    method, self.origin + target, data=body, headers=sent, allow_redirects=False
                ) as answer,
            ):
                received = bytearray()
                while len(received) < MAX_BODY_BYTES and (data := await answer.content.readany()):
                    received += data
                elapsed = loop_time() - started
                return Reply(
                    answer.status, CIMultiDict(answer.headers), bytes(received), sent_at, sent_at + elapsed
                )
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise RequestFailed(reason(failure)) from None

    async def publish(
        self,
        topic: str,
        data: str = "x",
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
    ) -> Reply:
        """Publish one event; if a rate limit refuses it, again as soon as the broker allows. Raises `RequestFailed`."""
        query = {**({"retain": RETAIN} if self.may_retain else {}), **query}
        for _ in range(ATTEMPTS):
            reply = await self.request("POST", f"/topics/{topic}", query, headers, data.encode())
            if reply.status != HTTPStatus.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(min(_seconds(reply.headers.get("Retry-After", "")), MAX_WAIT_SECONDS))
        return reply

    async def publish_id(self, topic: str, data: str = "x", query: Mapping[str, str] = NOTHING) -> str:
        """Publish one event and return its id. Raises `RequestFailed`, also for a refusal."""
        reply = await self.publish(topic, data, query)
        event_id = reply.json().get("id")
        if reply.status != 201 or not isinstance(event_id, str):
            raise RequestFailed(f"a publish was answered with {reply.status} {reply.detail}".rstrip())
        return event_id

    @contextlib.asynccontextmanager
    async def stream(
        self,
        topic: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        *,
        with_token: bool = True,
    ) -> AsyncIterator[wire.Exchange]:
        """Subscribe as a browser does; the response may not have arrived yet. Raises `RequestFailed`."""
        async with self.open(
            "GET", f"/topics/{topic}", query, {**EVENT_SOURCE, **headers}, with_token=with_token
        ) as exchange:
            yield exchange

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        *,
        with_token: bool = True,
    ) -> AsyncIterator[wire.Exchange]:
        """Send the head of a request on a connection of its own. Raises `RequestFailed`."""
        target, sent = self._addressed(path, query, headers, with_token=with_token)
        try:
            exchange = await wire.exchange(self.target.url, self.context, method, target, sent)
        except OSError as failure:
            raise RequestFailed(reason(failure)) from None
        try:
            yield exchange
        finally:
            await exchange.close()

    def _addressed(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], *, with_token: bool
    ) -> tuple[str, CIMultiDict[str]]:
        """The request's target and headers, with the token."""
        sent = CIMultiDict(headers)
        asked = dict(query)
        if with_token and self.target.token is not None:
            if self.token_in_query:
                asked.setdefault("access_token", self.target.token)
            else:
                sent.setdefault("Authorization", f"Bearer {self.target.token}")
        sent.setdefault("User-Agent", "broker-doctor")
        target = urlsplit(self.target.url).path + path
        return (f"{target}?{urlencode(asked)}" if asked else target), sent

    # The end

    async def clean(self) -> tuple[int, int]:
        """Delete all topics; close those that can't be deleted. Returns how many were deleted, and how many remain."""
        topics, self._topics = list(self._topics), {}
        results = await asyncio.gather(*(self._remove(topic) for topic in topics))
        return sum(results), len(results) - sum(results)

    async def _remove(self, topic: str) -> bool:
        with contextlib.suppress(RequestFailed):
            if (await self.request("DELETE", f"/topics/{topic}")).status == 204:
                return True
            await self.publish(topic, "", {"end": "true"})
        return False


def _seconds(text: str) -> float:
    """The seconds of a `Retry-After`; 1 for anything else."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 5 else 1.0
