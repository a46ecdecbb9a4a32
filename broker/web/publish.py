"""`POST /topics/{topic}` and `POST /topics?topic=…` (contract §2)."""

from __future__ import annotations

import asyncio
import json
import json.scanner
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, cast

from aiohttp import hdrs, web

from broker import sse
from broker.errors import BrokerError, InvalidBody, InvalidParameter, InvalidTopic, TooLarge
from broker.events import EventId, format_id
from broker.node import Node
from broker.stores.base import PLAIN, Asked, Item
from broker.topics import check_publishable, check_type
from broker.web.answers import Created
from broker.web.asked import asked_with_event, asked_with_stream
from broker.web.keys import BODIES, NODE, SETTINGS
from broker.web.query import check_escapes, topics_of

BATCH_LINES = 128
BATCH_BYTES = 256 << 10
LINE_FACTOR = 6  # a character of data may be written as \u00XX
LINE_SLACK_BYTES = 4096  # for the rest of a line's JSON

_KEY = re.compile(r"[!-~]{1,200}")


async def publish(request: web.Request) -> web.Response:
    """One event, or a stream of them, to one topic."""
    topic = check_publishable(request.match_info["topic"])
    if _is_streamed(request):
        return await _publish_lines(request, topic)
    key, asked = _key(request), asked_with_event(request, (topic,))
    lines = await _event(request)
    items = [] if asked.ends and await _is_empty(request) else [(topic, lines)]
    receipt = await request.app[NODE].publish(items, key, asked)
    closed = ', "closed": true' if receipt.closed else ""
    body = f'{{"topic": "{topic}", "id": "{format_id(receipt.ids[0])}"{closed}}}'
    return _created(body, replayed=receipt.replayed)


async def publish_to_many(request: web.Request) -> web.Response:
    """One event to several topics, or a stream of events each of which names its topic."""
    if _is_streamed(request):
        return await _publish_lines(request, None)
    topics = [check_publishable(topic) for topic in topics_of(request)]
    key, asked = _key(request), asked_with_event(request, topics)
    lines = await _event(request)
    items = [] if asked.ends and await _is_empty(request) else [(topic, lines) for topic in topics]
    receipt = await request.app[NODE].publish(items, key, asked)
    ids = {topic: format_id(event_id) for topic, event_id in zip(topics, receipt.ids, strict=True)}
    closed = {"closed": True} if receipt.closed else {}
    return _created(json.dumps({"ids": ids, **closed}), replayed=receipt.replayed)


async def _is_empty(request: web.Request) -> bool:
    """Whether the body, which was read already, is no event where it ends topics."""
    return not await request.read()


def _created(body: str, *, replayed: bool) -> web.Response:
    if not replayed:
        return Created(body.encode())
    headers = {"Idempotency-Replayed": "true"}
    return web.Response(status=201, body=body.encode(), content_type="application/json", headers=headers)


def _is_streamed(request: web.Request) -> bool:
    content_type = request.content_type
    _check_coding(request)
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
            data = await request.app[BODIES].wait(request.read)
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


async def _publish_lines(request: web.Request, topic: str | None) -> web.Response:
    """Publish each line of the body as it arrives; `topic` None takes it from each line.

    Lines that arrived together are published together, in order. At a bad line, or where the broker stops, what came before
    it stands.
    """
    run = _Run(
        request.app[NODE], topic, request.app[SETTINGS].max_event_bytes, asked_with_stream(request, topic)
    )
    try:
        async for block in _blocks(request, run.max_line_bytes):
            await run.publish(block)
        await run.end()
    except BrokerError as error:
        error.extra = {"line": run.line + 1, "published": run.published, **error.extra}
        raise
    answer: dict[str, object] = {"published": run.published}
    if topic is not None:
        answer = {"topic": topic, **answer, "first_id": _shown(run.first_id), "last_id": _shown(run.last_id)}
        answer |= run.told()
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def _blocks(request: web.Request, max_line_bytes: int) -> AsyncIterator[list[bytes]]:
    """The body's lines, in groups as they arrive; the last one needs no line end."""
    rest: list[bytes] = []
    rest_bytes = 0
    bodies = request.app[BODIES]
    try:
        while data := await bodies.wait(request.content.readany):
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
        published: how many events of them were published.
    """

    def __init__(self, node: Node, topic: str | None, max_event_bytes: int, asked: Asked) -> None:
        self.line = 0
        self.published = 0
        self._known = 0
        self._asked = asked
        self.first_id: EventId | None = None
        self.last_id: EventId | None = None
        self.max_line_bytes = LINE_FACTOR * max_event_bytes + LINE_SLACK_BYTES
        self._node = node
        self._topic = topic
        self._max_event_bytes = max_event_bytes

    async def publish(self, block: list[bytes]) -> None:
        """Publish the lines of `block`; raises at the first bad one, after those before it are published."""
        for first in range(0, len(block), BATCH_LINES):
            batch: list[Item] = []
            size = 0
            for line in block[first : first + BATCH_LINES]:
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
        if not batch:
            return
        receipt = await self._node.publish(batch, None, self._asked_now())
        if receipt.ids:
            self.first_id = receipt.ids[0] if self.first_id is None else self.first_id
            self.last_id = receipt.ids[-1]
        self.published += len(batch) - receipt.known
        self._known += receipt.known

    def _asked_now(self, ends: Sequence[str] = ()) -> Asked:
        """What is asked of the next publish: a producer has come further by what was done with."""
        asked = self._asked
        if asked.producer is None:
            return PLAIN if not ends and asked.retain_seconds is None else replace(asked, ends=ends)
        name, first = asked.producer
        return replace(asked, ends=ends, producer=(name, first + self.published + self._known))

    def told(self) -> dict[str, object]:
        """What the answer has beside that, of what was asked for."""
        known = {} if self._asked.producer is None else {"known": self._known}
        return {**known, **({"closed": True} if self._asked.ends else {})}

    async def end(self) -> None:
        """The body has come to its end, and the topic with it where that was asked."""
        if self._asked.ends:
            await self._node.publish([], None, self._asked_now(self._asked.ends))

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
        return self._topic or _topic(value), sse.lines(data, event_type)


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
