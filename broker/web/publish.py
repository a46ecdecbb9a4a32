"""Publishes one event or a stream of events, to one topic or several, and cancels producers (contract §2)."""

from __future__ import annotations

import json
import re
from collections.abc import Coroutine, Sequence
from typing import Any

from broker import sse
from broker.auth.grants import Caller
from broker.auth.tokens import UnknownKey
from broker.errors import InvalidBody, InvalidParameter, TooLarge
from broker.events import EventId, format_id
from broker.settings import Settings
from broker.stores.base import NO_OPTIONS, Item, Receipt
from broker.topics import check_publishable, check_type
from broker.web.admission import admit, charge
from broker.web.errors import event_too_large
from broker.web.held_publish import publish_event
from broker.web.parameters import NO_OTHERS, OF_PUBLISH, OF_PUBLISH_TO_SEVERAL, check_names
from broker.web.publish_options import event_options, requested_topics
from broker.web.publish_stream import EVENT_STREAM, STREAMED_TYPES, publish_stream
from broker.web.services import Services
from broker.web.values import JSON, Answer, BodySource, Request

_KEY = re.compile(r"[!-~]{1,200}")
_REPLAYED = {"Content-Type": "application/json", "Idempotency-Replayed": "true"}


class _EventHead:
    """What the head of a request says about its event.

    Attributes:
        is_plain: whether it is for one topic, without an idempotency key and options.
    """

    __slots__ = ("event_type", "is_plain", "key", "options", "topics")

    def __init__(self, request: Request, topics: Sequence[str], settings: Settings) -> None:
        """Raises `InvalidParameter`."""
        self.topics = topics
        self.key = request.headers.get("idempotency-key")
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise InvalidParameter("Idempotency-Key must be 1 to 200 visible ASCII characters.")
        self.options = event_options(request, topics, settings)
        self.is_plain = self.key is None and self.options is NO_OPTIONS and len(topics) == 1
        self.event_type = request.query.get("event") if request.query.raw else None
        if self.event_type is not None:
            request.query.check_utf8()
            check_type(self.event_type)


def publish(services: Services, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
    """`POST /topics/{topic}`: one event, or a streamed body, to one topic.

    If the head is known to be that of one event, and nothing has to be awaited, it is published at once. That costs half as
    much as the general way, which does the same steps.
    """
    head = request.memo.value
    if not isinstance(head, _EventHead):
        return _publish(services, request)
    try:
        caller = services.authenticator.authenticate_now(request)
    except UnknownKey:
        if services.authenticator.key_fetcher is None:
            raise
        return _publish(services, request)
    caller.grant.check_publish(head.topics)
    data = request.body.arrived()
    if data is None:
        return _publish(services, request)
    items = _admitted_items(services, caller, head, data)
    if head.is_plain:
        topic, lines = items[0]
        event_id = services.node.publish_at_once(topic, (lines,))
        if event_id is not None:
            return Answer(201, _created_body(topic, event_id), JSON)
    return _publish_items(services, request, caller, head, items)


async def _publish(services: Services, request: Request) -> Answer:
    topic = check_publishable(request.path_values["topic"])
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_publish((topic,))
    check_names(request.query, OF_PUBLISH)
    media_type = _media_type(request)
    if media_type in STREAMED_TYPES:
        return await publish_stream(services, request, caller, topic, media_type)
    head = request.memo.value = _EventHead(request, (topic,), services.settings)
    return _created(head, await _publish_event(services, request, caller, head))


async def _publish_items(
    services: Services, request: Request, caller: Caller, head: _EventHead, items: Sequence[Item]
) -> Answer:
    return _created(head, await publish_event(services, request, caller, items, head.key, head.options))


def _created(head: _EventHead, receipt: Receipt) -> Answer:
    body = _created_body(head.topics[0], receipt.ids[0], ', "closed": true' if receipt.closed else "")
    return Answer(201, body, _REPLAYED if receipt.replayed else JSON)


def _created_body(topic: str, event_id: EventId, more: str = "") -> bytes:
    return f'{{"topic": "{topic}", "id": "{format_id(event_id)}"{more}}}'.encode()


async def publish_to_several(services: Services, request: Request) -> Answer:
    """`POST /topics`: one event to several topics, or a streamed body with a topic in each line."""
    caller = await services.authenticator.authenticate(request)
    check_names(request.query, OF_PUBLISH_TO_SEVERAL)
    media_type = _media_type(request)
    if media_type in STREAMED_TYPES:
        if media_type == EVENT_STREAM:
            raise InvalidParameter("A piped event stream goes to one topic: POST it to /topics/{topic}.")
        return await publish_stream(services, request, caller, None, media_type)
    topics = [check_publishable(topic) for topic in requested_topics(request.query)]
    caller.grant.check_publish(topics)
    head = _EventHead(request, topics, services.settings)
    receipt = await _publish_event(services, request, caller, head)
    ids = {topic: format_id(event_id) for topic, event_id in zip(topics, receipt.ids, strict=True)}
    value = {"ids": ids, "closed": True} if receipt.closed else {"ids": ids}
    return Answer(201, json.dumps(value).encode(), _REPLAYED if receipt.replayed else JSON)


async def cancel(services: Services, request: Request) -> Answer:
    """`POST /topics/{topic}/cancel`: ask the topic's producers to stop, on all instances in reach."""
    topic = check_publishable(request.path_values["topic"])
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_publish((topic,))
    check_names(request.query, NO_OTHERS)
    admit(services, caller)
    await services.node.instances.cancel(topic)
    return Answer(202)


async def _publish_event(services: Services, request: Request, caller: Caller, head: _EventHead) -> Receipt:
    """Publish one event to its topics, and close them if requested: all or none."""
    data = request.body.arrived()
    if data is None:
        data = await _read(services, request.body, caller, services.settings.max_event_bytes)
        services.node.streams.evictions.check(caller.grant)
    items = _admitted_items(services, caller, head, data)
    del data  # `items` have it; both would be kept while they wait
    return await publish_event(services, request, caller, items, head.key, head.options)


def _admitted_items(services: Services, caller: Caller, head: _EventHead, data: bytes) -> Sequence[Item]:
    """An item for each topic that gets `data`, charged to `caller`, which has just been authenticated, or checked."""
    max_event_bytes = services.settings.max_event_bytes
    if len(data) > max_event_bytes:
        raise event_too_large(max_event_bytes)
    try:
        data.decode()
    except UnicodeDecodeError:
        raise InvalidBody("The body is not valid UTF-8; an event's data is text.") from None
    lines = sse.lines(data, head.event_type)
    topics = head.topics if data or not head.options.ends else ()
    items = [(topics[0], lines)] if len(topics) == 1 else [(topic, lines) for topic in topics]
    if services.node.limits.limits_publishing:
        charge(services, caller, events=max(1, len(items)), size=len(items) * len(lines))
    return items


async def _read(services: Services, body: BodySource, caller: Caller, max_event_bytes: int) -> bytes:
    try:
        return await services.bodies.whole(body, caller, max_event_bytes)
    except TooLarge:
        raise event_too_large(max_event_bytes) from None


def _media_type(request: Request) -> str:
    """The body's media type without parameters, or "". Raises `InvalidBody` for a compressed body: it may inflate to any size."""
    headers = request.headers
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise InvalidBody("The body must not be compressed; leave Content-Encoding out.")
    return headers.get("content-type", "").partition(";")[0].strip().lower()
