"""Streamed bodies: each event is published as soon as it is complete, however long the body lasts (contract §2).

What came before a fault stands, and the answer says how far it got. Events that arrived together are published together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Protocol

from aiohttp import web

from broker.auth.grants import Caller
from broker.errors import BrokerError, InvalidBody, InvalidParameter
from broker.events import EventId, format_id
from broker.stores.base import NO_OPTIONS, Item, PublishOptions
from broker.web.app_keys import BODIES, NODE, PRODUCING, SETTINGS
from broker.web.body_reader import Interrupt
from broker.web.event_stream_body import EventStreamBody
from broker.web.ndjson import NdjsonBody
from broker.web.publish_options import StreamOptions, wish_of

NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
KINDS = frozenset({NDJSON, EVENT_STREAM})

BATCH_ITEMS = 128
BATCH_TOPICS = 32  # where each names its topic: a new one costs several times what an event does
BATCH_BYTES = 256 << 10


class BodyFormat(Protocol):
    """How a body's bytes become events."""

    def items(self, data: bytes) -> Iterator[Item | None]:
        """The events that `data` completes, and None where others should have their turn.

        Raises a `BrokerError` at the first one that is bad.
        """

    def end(self) -> Iterator[Item | None]:
        """Those that the body's end completes. Raises likewise."""

    def where(self) -> Mapping[str, object]:
        """Members of an error's answer that say where in the body it is."""


async def publish_stream(request: web.Request, caller: Caller, topic: str | None) -> web.Response:
    """Publish each event of the body as it arrives; `topic` None takes it from each line, which `caller` must be allowed."""
    if "Idempotency-Key" in request.headers:
        raise InvalidParameter("Idempotency-Key goes with one event, not with a streamed body.")
    wish = wish_of(request, topic)
    run = _StreamedPublish(request, caller, topic, wish)
    try:
        with contextlib.ExitStack() as stack:
            if topic is not None:
                await run.begin(stack, topic)
            async for data in _pieces(request, run.interrupt):
                await run.publish(run.form.items(data))
            await run.publish(run.form.end())
            await run.end()
    except BrokerError as error:
        error.extra = {**run.form.where(), **run.result(), **error.extra}
        raise
    answer = {"topic": topic, **run.result(), **run.ids()} if topic is not None else run.result()
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def _pieces(request: web.Request, interrupt: Interrupt) -> AsyncIterator[bytes]:
    bodies = request.app[BODIES]
    try:
        while data := await bodies.piece(request.content.readany, interrupt):
            yield data
    except web.RequestPayloadError:
        raise InvalidBody("The body breaks the rules of its Transfer-Encoding.") from None


class _StreamedPublish:
    """One streamed body.

    Attributes:
        published: how many of its events are in the store by this request.
        interrupt: breaks it off.
    """

    def __init__(self, request: web.Request, caller: Caller, topic: str | None, wish: StreamOptions) -> None:
        max_event_bytes = request.app[SETTINGS].max_event_bytes
        self.form: BodyFormat = (
            EventStreamBody(topic, max_event_bytes)
            if topic is not None and request.content_type == EVENT_STREAM
            else NdjsonBody(topic, caller.grant, max_event_bytes)
        )
        self.published = 0
        self.interrupt = Interrupt()
        self._request = request
        self._node = request.app[NODE]
        self._bodies = request.app[BODIES]
        self._caller = caller
        self._topic = topic
        self._wish = wish
        self._known = 0
        self._closed = False
        self._first_id: EventId | None = None
        self._last_id: EventId | None = None

    async def begin(self, stack: contextlib.ExitStack, topic: str) -> None:
        """Be there for who asks the producer to stop, and see to the topic's lease."""
        producing, wish = self._request.app[PRODUCING], self._wish
        resumed = wish.producer is not None and wish.producer[1] > 1
        body = stack.enter_context(
            producing.open(
                topic, resumed=resumed, leased=wish.leased, last_viewer_seconds=wish.last_viewer_seconds
            )
        )
        self.interrupt = body.interrupt
        if wish.ends or wish.producer is not None:
            await producing.take_lease(topic, leased=wish.leased)

    async def publish(self, items: Iterator[Item | None]) -> None:
        """Publish `items`; raises at the first bad one, after those before it are published."""
        self._node.streams.evictions.check(self._caller.grant)
        most = BATCH_ITEMS if self._topic is not None else BATCH_TOPICS
        batch: list[Item] = []
        size = 0
        try:
            for item in items:
                if item is None:
                    await asyncio.sleep(0)  # a body that comes fast leaves room for the others (I9)
                    continue
                batch.append(item)
                size += len(item[1])
                if len(batch) >= most or size >= BATCH_BYTES:
                    full, batch, size = batch, [], 0
                    await self._flush(full)
                    await asyncio.sleep(0)
        except BrokerError:
            await self._flush(batch)
            raise
        await self._flush(batch)

    async def _flush(self, batch: list[Item]) -> None:
        if not batch:
            return
        receipt = await self._node.publish(batch, options=self._asked())
        self._known += receipt.known
        if receipt.ids:
            self._first_id = receipt.ids[0] if self._first_id is None else self._first_id
            self._last_id = receipt.ids[-1]
        self.published += len(batch) - receipt.known
        if self._node.limits.limits_publishing:
            await self._slow_down(len(batch), sum(len(lines) for _, lines in batch))

    def _asked(self) -> PublishOptions:
        wish = self._wish
        if wish.producer is None and (wish.retain_seconds is None or self._last_id is not None):
            return NO_OPTIONS  # the topic's first event decides how long it is kept
        name, first = wish.producer or ("", 1)
        at = (name, first + self.published + self._known) if name else None
        return PublishOptions(producer=at, retain_seconds=wish.retain_seconds)

    async def _slow_down(self, events: int, size: int) -> None:
        """Read no more while the caller is faster than it may be: so its own sending waits."""
        seconds = self._node.limits.slow_down(self._caller, events, size)
        if seconds:
            self._node.metrics.slowed_seconds.inc(seconds)
            await self._bodies.pause(seconds, self.interrupt)

    async def end(self) -> None:
        """After the body's clean end: end the topic, where that was asked for."""
        if self._wish.ends and self._topic is not None:
            asked = PublishOptions(ends=(self._topic,), retain_seconds=self._wish.retain_seconds)
            self._closed = (await self._node.publish([], options=asked)).closed

    def result(self) -> dict[str, object]:
        """Members of every answer."""
        found: dict[str, object] = {"published": self.published}
        if self._wish.producer is not None:
            found["known"] = self._known
        if self._closed:
            found["closed"] = True
        return found

    def ids(self) -> dict[str, object]:
        """Members of the answer of one topic."""
        return {"first_id": _shown(self._first_id), "last_id": _shown(self._last_id)}


def _shown(event_id: EventId | None) -> str | None:
    return None if event_id is None else format_id(event_id)
