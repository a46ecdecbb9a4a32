"""`POST /topics/{topic}` and `POST /topics?topic=…`, and asking a producer to stop (contract §2)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NoReturn

from aiohttp import hdrs, web

from broker import sse
from broker.auth.grants import Caller
from broker.errors import InvalidBody, InvalidParameter, RateLimited, TooLarge
from broker.events import format_id
from broker.node.node import Node
from broker.stores.base import Receipt
from broker.topics import check_publishable, check_type
from broker.web.answers import Created
from broker.web.app_keys import BODIES, NODE, SETTINGS
from broker.web.identity import caller_of
from broker.web.publish_options import asked_with_event, check_escapes, topics_of
from broker.web.publish_stream import EVENT_STREAM, KINDS, publish_stream

_KEY = re.compile(r"[!-~]{1,200}")


async def publish(request: web.Request) -> web.Response:
    """One event, or a stream of them, to one topic."""
    topic = check_publishable(request.match_info["topic"])
    caller = await caller_of(request)
    caller.grant.check_publish((topic,))
    if _is_streamed(request):
        return await publish_stream(request, caller, topic)
    receipt = await _publish_one(request, caller, (topic,))
    closed = ', "closed": true' if receipt.closed else ""
    body = f'{{"topic": "{topic}", "id": "{format_id(receipt.ids[0])}"{closed}}}'
    return _created(body, replayed=receipt.replayed)


async def publish_to_many(request: web.Request) -> web.Response:
    """One event to several topics, or a stream of events each of which names its topic."""
    caller = await caller_of(request)
    if _is_streamed(request):
        if request.content_type == EVENT_STREAM:
            raise InvalidParameter("A piped stream goes to one topic: POST /topics/{topic}.")
        return await publish_stream(request, caller, None)
    topics = [check_publishable(topic) for topic in topics_of(request)]
    caller.grant.check_publish(topics)
    receipt = await _publish_one(request, caller, topics)
    ids = {topic: format_id(event_id) for topic, event_id in zip(topics, receipt.ids, strict=True)}
    answer = {"ids": ids, "closed": True} if receipt.closed else {"ids": ids}
    return _created(json.dumps(answer), replayed=receipt.replayed)


async def cancel(request: web.Request) -> web.Response:
    """Ask whoever publishes a stream to the topic to stop. 202: all instances that can be reached hear of it."""
    topic = check_publishable(request.match_info["topic"])
    (await caller_of(request)).grant.check_publish((topic,))
    await request.app[NODE].instances.cancel(topic)
    return web.Response(status=202)


async def _publish_one(request: web.Request, caller: Caller, topics: Sequence[str]) -> Receipt:
    """The request's one event to each of `topics`, and their end where that is asked for: all or none."""
    key, asked = _key(request), asked_with_event(request, topics)
    data, lines = await _event(request)
    items = [(topic, lines) for topic in topics] if data or not asked.ends else []
    node = request.app[NODE]
    if node.limits.limits_publishing:
        _check_rate(node, caller, len(items), len(items) * len(lines))
    return await node.publish(items, key, asked)


def _check_rate(node: Node, caller: Caller, events: int, size: int) -> None:
    """Raises `RateLimited` where the caller publishes faster than it may."""
    try:
        node.limits.check_publish(caller, events, size)
    except RateLimited as error:
        node.metrics.refused_publishes.labels(str(error.extra["limit"])).inc()
        raise


def _created(body: str, *, replayed: bool) -> web.Response:
    if not replayed:
        return Created(body.encode())
    headers = {"Idempotency-Replayed": "true"}
    return web.Response(status=201, body=body.encode(), content_type="application/json", headers=headers)


def _is_streamed(request: web.Request) -> bool:
    _check_coding(request)
    return request.content_type in KINDS


def _check_coding(request: web.Request) -> None:
    """Bodies come as they are: what a compressed one might inflate to can't be bounded fairly."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise InvalidBody("Bodies are taken uncompressed; leave Content-Encoding out.")


def _key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidParameter("Idempotency-Key is 1 to 200 visible ASCII characters.")
    return key


async def _event(request: web.Request) -> tuple[bytes, bytes]:
    """The data of the one event that the request carries, and its lines."""
    limit = request.app[SETTINGS].max_event_bytes
    event_type = request.query.get("event") if request.query_string else None
    if event_type is not None:
        check_escapes(request)
        check_type(event_type)
    if (request.content_length or 0) > limit:
        _too_large(limit)
    try:
        if request.content.is_eof():
            data = await request.read()
        else:
            data = await request.app[BODIES].whole(request.read)
    except web.HTTPRequestEntityTooLarge:
        _too_large(limit)
    except web.RequestPayloadError:
        raise InvalidBody("The body breaks the rules of its Transfer-Encoding.") from None
    try:
        data.decode()
    except UnicodeDecodeError:
        raise InvalidBody("The body is not valid UTF-8; an event's data is text.") from None
    return data, sse.lines(data, event_type)


def _too_large(limit: int) -> NoReturn:
    raise TooLarge(f"An event's data is at most {limit} bytes; send it in parts, or a reference to it.")
