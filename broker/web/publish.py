"""`POST /topics/{topic}` and `POST /topics?topic=…` (contract §2)."""

from __future__ import annotations

import asyncio
import json
import json.scanner
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, cast

from aiohttp import hdrs, web

from broker import sse
from broker.access import Grant
from broker.errors import BrokerError, InvalidBody, InvalidParameter, InvalidTopic, TooLarge
from broker.events import EventId, format_id
from broker.node import Node
from broker.topics import check_publishable, check_type
from broker.web.answers import Created
from broker.web.identity import caller_of
from broker.web.keys import BODIES, NODE, SETTINGS
from broker.web.query import check_escapes, topics_of

BATCH_LINES = 128
BATCH_TOPICS = 32  # lines that each name their topic: a new one costs several times what an event does
BATCH_BYTES = 256 << 10
MOST_GRANTED = 1000  # topics of one body that are known to be allowed
LINE_FACTOR = 6  # a character of data may be written as \u00XX
LINE_SLACK_BYTES = 4096  # for the rest of a line's JSON

_KEY = re.compile(r"[!-~]{1,200}")

Item = tuple[str, bytes]
"""A topic, and an event's lines (`sse.lines`)."""


async def publish(request: web.Request) -> web.Response:
    """One event, or a stream of them, to one topic."""
    topic = check_publishable(request.match_info["topic"])
    caller = await caller_of(request)
    caller.grant.check_publish((topic,))
    if _is_streamed(request):
        return await _publish_lines(request, caller.grant, topic)
    key = _key(request)
    receipt = await request.app[NODE].publish([(topic, await _event(request))], key)
    body = f'{{"topic": "{topic}", "id": "{format_id(receipt.ids[0])}"}}'
    return _created(body, replayed=receipt.replayed)


async def publish_to_many(request: web.Request) -> web.Response:
    """One event to several topics, or a stream of events each of which names its topic."""
    caller = await caller_of(request)
    if _is_streamed(request):
        return await _publish_lines(request, caller.grant, None)
    topics = [check_publishable(topic) for topic in topics_of(request)]
    caller.grant.check_publish(topics)
    key = _key(request)
    lines = await _event(request)
    receipt = await request.app[NODE].publish([(topic, lines) for topic in topics], key)
    ids = {topic: format_id(event_id) for topic, event_id in zip(topics, receipt.ids, strict=True)}
    return _created(json.dumps({"ids": ids}), replayed=receipt.replayed)


def _created(body: str, *, replayed: bool) -> web.Response:
    if not replayed:
        return Created(body.encode())
    headers = {"Idempotency-Replayed": "true"}
    return web.Response(status=201, body=body.encode(), content_type="application/json", headers=headers)


def _is_streamed(request: web.Request) -> bool:
    content_type = request.content_type
    _check_coding(request)
    if request.query_string and "end" in request.query:
        raise InvalidParameter("Topics can't be ended yet; leave 'end' out.")
    if content_type == "text/event-stream":
        raise InvalidParameter("A piped text/event-stream isn't taken yet; send application/x-ndjson.")
    if content_type != "application/x-ndjson":
        return False
    if "Idempotency-Key" in request.headers:
        raise InvalidParameter("Idempotency-Key goes with one event, not with a streamed body.")
    return True


def _check_coding(request: web.Request) -> None:
    """Bodies come as they are: what a compressed one might inflate to can't be bounded fairly."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise InvalidBody("Bodies are taken uncompressed; leave Content-Encoding out.")


def _key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidParameter("Idempotency-Key is 1 to 200 visible ASCII characters.")
    return key


async def _event(request: web.Request) -> bytes:
    """The lines of the one event that the request carries."""
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
    return sse.lines(data, event_type)


def _too_large(limit: int) -> NoReturn:
    raise TooLarge(f"An event's data is at most {limit} bytes; send it in parts, or a reference to it.")


# NDJSON


async def _publish_lines(request: web.Request, grant: Grant, topic: str | None) -> web.Response:
    """Publish each line of the body as it arrives; `topic` None takes it from each line, which `grant` must then allow.

    Lines that arrived together are published together, in order. At a bad line, or where the broker stops, what came before
    it stands.
    """
    run = _Run(request.app[NODE], grant, topic, request.app[SETTINGS].max_event_bytes)
    try:
        async for block in _blocks(request, run.max_line_bytes):
            await run.publish(block)
    except BrokerError as error:
        error.extra = {"line": run.line + 1, "published": run.published, **error.extra}
        raise
    answer: dict[str, object] = {"published": run.published}
    if topic is not None:
        answer = {"topic": topic, **answer, "first_id": _shown(run.first_id), "last_id": _shown(run.last_id)}
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def _blocks(request: web.Request, max_line_bytes: int) -> AsyncIterator[list[bytes]]:
    """The body's lines, in groups as they arrive; the last one needs no line end."""
    rest: list[bytes] = []
    rest_bytes = 0
    bodies = request.app[BODIES]
    try:
        while data := await bodies.piece(request.content.readany):
            first, *more = data.split(b"\n")
            if more:
                yield [b"".join((*rest, first)), *more[:-1]]
                rest, rest_bytes, first = [], 0, more[-1]
            if first:
                rest.append(first)
                rest_bytes += len(first)
            if rest_bytes > max_line_bytes:
                raise TooLarge(f"The line is over {max_line_bytes} bytes.")
    except web.RequestPayloadError:
        raise InvalidBody("The body breaks the rules of its Transfer-Encoding.") from None
    if rest:
        yield [b"".join(rest)]


class _Run:
    """One streamed body.

    Attributes:
        line: how many lines are done with.
        published: how many events of them are in the store.
    """

    def __init__(self, node: Node, grant: Grant, topic: str | None, max_event_bytes: int) -> None:
        self.line = 0
        self.published = 0
        self.first_id: EventId | None = None
        self.last_id: EventId | None = None
        self.max_line_bytes = LINE_FACTOR * max_event_bytes + LINE_SLACK_BYTES
        self._node = node
        self._grant = grant
        self._granted: set[str] = set()
        self._topic = topic
        self._max_event_bytes = max_event_bytes

    async def publish(self, block: list[bytes]) -> None:
        """Publish the lines of `block`; raises at the first bad one, after those before it are published."""
        self._node.check_good(self._grant)
        lines = BATCH_LINES if self._topic else BATCH_TOPICS
        for first in range(0, len(block), lines):
            batch: list[Item] = []
            size = 0
            for line in block[first : first + lines]:
                try:
                    item = self._item(line)
                except BrokerError:
                    await self._flush(batch)
                    raise
                self.line += 1
                if item is not None:
                    batch.append(item)
                    size += len(item[1])
                if size >= BATCH_BYTES:
                    await self._flush(batch)
                    batch, size = [], 0
            await self._flush(batch)
            await asyncio.sleep(0)  # a body that comes fast leaves room for the others (I9)

    async def _flush(self, batch: list[Item]) -> None:
        if batch:
            receipt = await self._node.publish(batch)
            if self.first_id is None:
                self.first_id = receipt.ids[0]
            self.last_id = receipt.ids[-1]
            self.published += len(batch)

    def _item(self, line: bytes) -> Item | None:
        line = line.strip()
        if not line:
            return None
        if len(line) > self.max_line_bytes:
            raise TooLarge(f"The line is over {self.max_line_bytes} bytes.")
        value = _object(line)
        try:
            data = _data(value)
        except UnicodeEncodeError:
            raise InvalidBody("The line's data has a lone surrogate; data is Unicode text.") from None
        if len(data) > self._max_event_bytes:
            _too_large(self._max_event_bytes)
        event_type = value.get("event")
        if event_type is not None:
            if not isinstance(event_type, str):
                raise InvalidParameter("'event' is a string.")
            check_type(event_type)
        return self._topic or self._granted_topic(value), sse.lines(data, event_type)

    def _granted_topic(self, value: dict[str, Any]) -> str:
        topic = _topic(value)
        if topic not in self._granted:
            self._grant.check_publish((topic,))
            if len(self._granted) < MOST_GRANTED:
                self._granted.add(topic)
        return topic


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_scan: Callable[[str, int], tuple[Any, int]] = json.scanner.make_scanner(cast("Any", _decoder))
_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _object(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
        value, end = _scan(text, 0)
    except UnicodeDecodeError:
        raise InvalidBody("The line is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidBody("The line's JSON is nested too deep.") from None
    except (ValueError, StopIteration):
        raise InvalidBody("The line is not JSON.") from None
    if end != len(text) or type(value) is not dict:
        raise InvalidBody('The line is not one JSON object; send {"data": …} on each line.')
    return value


def _data(value: dict[str, Any]) -> bytes:
    if "data" not in value:
        raise InvalidBody("The line's object has no 'data'.")
    data = value["data"]
    if isinstance(data, str):
        return data.encode()
    try:
        return _compact(data).encode()
    except RecursionError:
        raise InvalidBody("The line's JSON is nested too deep.") from None
    except UnicodeEncodeError:
        raise
    except ValueError:
        raise InvalidBody("The line has a number that JSON can't write.") from None


def _topic(value: dict[str, Any]) -> str:
    topic = value.get("topic")
    if not isinstance(topic, str):
        raise InvalidTopic("Each line names its 'topic'.")
    return check_publishable(topic)


def _shown(event_id: EventId | None) -> str | None:
    return None if event_id is None else format_id(event_id)
