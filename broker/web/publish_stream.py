"""Publishes streamed bodies: each event as soon as it is complete, however long the body lasts (contract §2).

Events before a fault stay published, and the answer counts them. Events that arrive together are published together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from broker.auth.grants import Caller
from broker.errors import (
    BrokerError,
    Cancelled,
    Incomplete,
    InvalidBody,
    InvalidParameter,
    NoEventStream,
    Unavailable,
)
from broker.events import EventId, format_id
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt
from broker.web.admission import admit_part
from broker.web.body_format import BodyFormat
from broker.web.body_limits import HeldBody
from broker.web.body_reader import Interrupt
from broker.web.event_stream_body import EventStreamBody
from broker.web.held_publish import publish_part
from broker.web.ndjson import NdjsonBody
from broker.web.publish_options import StreamOptions, stream_options
from broker.web.services import Services
from broker.web.values import JSON, Answer, BodySource, Request

EVENT_STREAM = "text/event-stream"
NDJSON_TYPES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"}
)
STREAMED_TYPES = NDJSON_TYPES | {EVENT_STREAM}

BATCH_ITEMS = 128
BATCH_ITEMS_ANY_TOPIC = 32  # if each line names its topic: a new topic costs as much as several events
BATCH_BYTES = 256 << 10
ITEM_BYTES = 100
"""For each event of a batch, besides its lines."""

CANCELLED = "cancelled"
"""The reason of an end that a cancel brought about."""

_SEND_AGAIN = "The topic stays open; send the missing events, with the mark at its end."

_logger = logging.getLogger("broker")


async def publish_stream(
    services: Services, request: Request, caller: Caller, topic: str | None, media_type: str
) -> Answer:
    """Publish the events of the body to `topic`; with None each to the topic in its line, if granted to `caller`."""
    if "idempotency-key" in request.headers:
        raise InvalidParameter("Idempotency-Key is for one event, not for a streamed body.")
    options = stream_options(request, topic, services.settings)
    max_event_bytes = services.settings.max_event_bytes
    body_format: BodyFormat = (
        EventStreamBody(topic, max_event_bytes, options.mark)
        if topic is not None and media_type == EVENT_STREAM
        else NdjsonBody(topic, caller.grant, max_event_bytes)
    )
    publication = _StreamedPublish(services, caller, topic, options, body_format)
    metrics = services.node.metrics
    metrics.opened_bodies.value += 1
    ended = "internal"
    try:
        await publication.run(request.body)
        ended = "ended" if publication.is_closed else "complete"
    except (ConnectionError, asyncio.CancelledError):
        ended = "cut"
        raise
    except BrokerError as error:
        ended = error.counted_as
        if isinstance(error, Cancelled):
            await publication.end_cancelled()
        error.extra = {**body_format.location(), **publication.result(), **error.extra}
        raise
    finally:
        metrics.ended_bodies.add(ended)
    return Answer(200, json.dumps(publication.answer()).encode(), JSON)


class _StreamedPublish:
    """The publication of one streamed body.

    Attributes:
        is_closed: whether it has closed its topic.
    """

    def __init__(
        self,
        services: Services,
        caller: Caller,
        topic: str | None,
        options: StreamOptions,
        body_format: BodyFormat,
    ) -> None:
        self._services = services
        self._node = services.node
        self._check = services.node.streams.evictions.check
        self._caller = caller
        self._topic = topic
        self._options = options
        self._format = body_format
        self._interrupt = Interrupt()
        self._held: HeldBody  # while it runs
        most = BATCH_ITEMS if topic is not None else BATCH_ITEMS_ANY_TOPIC
        self._batch_items = min(most, self._node.limits.max_events)
        self._batch_bytes = min(BATCH_BYTES, self._node.limits.max_bytes)
        self._published = 0  # by this request
        self._known = 0  # published by an earlier request of the same producer
        self.is_closed = False
        self._ends_with_mark = False
        self._first_id: EventId | None = None
        self._last_id: EventId | None = None
        self._is_plain = False  # its events need neither options nor a check of rates, from the first one on

    async def run(self, body: BodySource) -> None:
        """Publish the body. Raises a `BrokerError` at the first fault, after the events before it are published."""
        bodies = self._services.bodies
        with contextlib.ExitStack() as stack:
            self._held = stack.enter_context(bodies.limits.enter(self._caller))
            body.on_left(self._held.hold_more)
            stack.callback(body.on_left, None)
            if self._topic is not None:
                await self._begin(stack, self._topic)
            await bodies.each_piece(body, self._interrupt, self._use)
            await self._publish_end()
            await self._close()

    def _use(self, piece: bytes) -> Coroutine[Any, Any, None] | None:
        """Publish what `piece` completes: at once if it can, as a language model's tokens, else in a coroutine."""
        plain = self._format.plain_events(piece)
        if plain is None or not (self._is_plain or len(plain[1]) == 1):
            return self._publish(self._format.items(piece), len(piece))
        topic, events = plain
        self._check(self._caller.grant)
        if self._is_plain:
            event_id = self._node.publish_at_once(topic, events)
            if event_id is not None:
                self._last_id = event_id
                self._published += len(events)
                if self._options.mark is not None:
                    self._ends_with_mark = self._options.mark.is_in(events[-1])
                return None
        return self._flush([(topic, lines) for lines in events], len(piece))

    async def _publish_end(self) -> None:
        """Publish what the end of the body completes. Raises `Incomplete` if the body lacks its mark."""
        mark = self._options.mark
        try:
            await self._publish(self._format.end(), 0)
        except NoEventStream:
            raise
        except InvalidBody as error:
            if mark is None:
                raise
            raise Incomplete(f"{error.detail} {_SEND_AGAIN}") from None
        if mark is not None and not self._ends_with_mark:
            raise Incomplete(
                f"The last event of the body isn't its mark ({mark}), so its source was cut. {_SEND_AGAIN}"
            )

    async def _begin(self, stack: contextlib.ExitStack, topic: str) -> None:
        """Register the body for cancels, and take the topic's lease."""
        options, producers = self._options, self._services.producers
        body = producers.open(
            topic,
            self._caller.grant,
            resumed=options.producer is not None and options.producer[1] > 1,
            leased=options.leased,
            last_viewer_seconds=options.last_viewer_seconds,
        )
        self._interrupt = stack.enter_context(body).interrupt
        if options.ends or options.producer is not None:
            await self._admit()
            await producers.take_lease(topic, leased=options.leased)

    async def _publish(self, items: Iterator[Item | None], piece_bytes: int) -> None:
        """Publish `items` of a piece in batches. Raises at the first bad item, after the items before it are published."""
        self._check(self._caller.grant)
        batch: list[Item] = []
        size = 0
        try:
            for item in items:
                if item is None:
                    await asyncio.sleep(0)  # a fast body must leave time for others (I9)
                    continue
                batch.append(item)
                size += len(item[1])
                if len(batch) >= self._batch_items or size >= self._batch_bytes:
                    full, batch, size = batch, [], 0
                    await self._flush(full, piece_bytes)
                    await asyncio.sleep(0)
        except BrokerError:
            await self._flush(batch, piece_bytes)
            raise
        await self._flush(batch, piece_bytes)
        self._held.hold(self._format.held_bytes)

    async def _flush(self, batch: Sequence[Item], piece_bytes: int) -> None:
        """Publish `batch`, which is of a piece of so many bytes."""
        if not batch:
            return
        size = sum(len(lines) for _, lines in batch)
        await self._admit(len(batch), size)
        size += ITEM_BYTES * len(batch) + piece_bytes
        options, unfinished = self._batch_options(), self._format.held_bytes
        self._count(batch, await publish_part(self._services, self._held, unfinished, batch, size, options))

    def _count(self, batch: Sequence[Item], receipt: Receipt) -> None:
        self._known += receipt.known
        if receipt.ids:
            self._first_id = receipt.ids[0] if self._first_id is None else self._first_id
            self._last_id = receipt.ids[-1]
            self._is_plain = self._options.producer is None and not self._node.limits.limits_publishing
        self._published += len(batch) - receipt.known
        if self._options.mark is not None:
            self._ends_with_mark = self._options.mark.is_in(batch[-1][1])
        if receipt.known and self._topic is not None:  # a client that resumes may send its first events again
            self._services.producers.check_resumed(self._topic)

    def _batch_options(self) -> PublishOptions:
        options = self._options
        if options.producer is None and (options.retain_seconds is None or self._last_id is not None):
            return NO_OPTIONS  # only the topic's first event decides how long it is kept
        producer = None
        if options.producer is not None:
            name, first = options.producer
            producer = (name, first + self._published + self._known)
        return PublishOptions(producer=producer, retain_seconds=options.retain_seconds)

    async def _admit(self, events: int = 1, size: int = 0) -> None:
        await admit_part(self._services, self._caller, self._interrupt, events=events, size=size)

    async def _close(self) -> None:
        """Close the topic after a clean end, if requested."""
        if self._options.ends and self._topic is not None:
            await self._admit()
            asked = self._options
            options = PublishOptions((self._topic,), None, asked.retain_seconds, asked.reason)
            self.is_closed = (await self._node.publish([], options=options)).closed

    async def end_cancelled(self) -> None:
        """A cancel has stopped the body: close the topic if the body was to close it."""
        if not self._options.ends or self._topic is None:
            return
        try:
            await self._node.instances.cancel_written(self._topic)
            await self._node.close(self._topic, CANCELLED)
        except Unavailable as error:
            _logger.warning("can't close the topic of a cancelled producer: %s", error.detail)
        else:
            self.is_closed = True

    def result(self) -> dict[str, object]:
        """The members of every answer, errors included."""
        result: dict[str, object] = {"published": self._published}
        if self._options.producer is not None:
            result["known"] = self._known
        if self.is_closed:
            result["closed"] = True
        return result

    def answer(self) -> dict[str, object]:
        """The whole answer of a body that ended without a fault."""
        if self._topic is None:
            return self.result()
        ids = {"first_id": _id_text(self._first_id), "last_id": _id_text(self._last_id)}
        return {"topic": self._topic, **self.result(), **ids}


def _id_text(event_id: EventId | None) -> str | None:
    return None if event_id is None else format_id(event_id)
