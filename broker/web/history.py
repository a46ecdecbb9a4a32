"""Reads the events that topics still have, as JSON: `GET /topics/{topic}/events` and `GET /events?topic=…` (contract §4).

Rules: a page is read in one step; its events are encoded in slices, between which the loop does other things. Only a request
that must wait for its first event is a stream, and counts as one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from broker import sse
from broker.auth.grants import Caller
from broker.durations import parse_duration
from broker.errors import InvalidParameter, Overloaded, RateLimited
from broker.events import EventId, format_id, parse_id
from broker.fanout.close_reason import CloseReason
from broker.fanout.origin import Client
from broker.log.entry import Entry
from broker.log.start import Last, Since, Start
from broker.node.history import Found, Gap, Page, Reading
from broker.node.node import Node
from broker.web.errors import error_answer
from broker.web.etag import tagged
from broker.web.publish_options import requested_topics
from broker.web.request_id import HEADER, new_id
from broker.web.services import Services
from broker.web.start_options import requested_start
from broker.web.subscribe import check_topics, reserve
from broker.web.topics import requested_limit
from broker.web.unread_answers import SMALL_BYTES, Reservation, UnreadAnswers
from broker.web.values import Answer, Request

MAX_WAIT_SECONDS = 50
SLICE_EVENTS = 128
SLICE_BYTES = 64 << 10
"""Encoded in one turn of the loop; about 0.5 ms."""
POLL_EVENTS = 128
"""The most events that a waiting poll gets: they are encoded in the step that wakes it."""

_HEADERS = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "private, no-cache"}


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """What a request asks for.

    Attributes:
        before: only events before this id, and of those the newest; None for the oldest after `start`.
        wait_seconds: how long to wait for the first event; 0 not to wait.
    """

    start: Start
    before: EventId | None
    limit: int
    wait_seconds: int


@dataclass(frozen=True, slots=True)
class LongPoll:
    """A poll that is ready to wait. Call either `attach` or `release`, once, before anything is awaited."""

    node: Node
    caller: Caller
    reading: Reading
    options: HistoryOptions
    none_match: str
    unread: UnreadAnswers
    address: str

    def attach(self, transport: asyncio.Transport, encode: Callable[[Answer], bytes], client: Client) -> None:
        """Wait on `transport`, to which the answer is then written as `encode` returns it."""
        node, seconds = self.node, self.options.wait_seconds
        responder = _PollResponder(self, encode, client.request_id)
        node.streams.attach_poll(transport, self.caller, self.reading, seconds, responder, client)

    def release(self) -> None:
        """Give up the logs and the caller's place."""
        self.node.logs.unwatch(self.reading.topics)
        self.node.limits.undo_enter(self.caller)


class _PollResponder:
    """Makes the answer to `poll`; see `fanout.poll.Responder`.

    Without room for a large answer the poll is refused, and nothing is lost: its client comes back with the same cursor.
    """

    __slots__ = ("_encode", "_poll", "_request_id")

    def __init__(self, poll: LongPoll, encode: Callable[[Answer], bytes], request_id: str | None) -> None:
        self._poll = poll
        self._encode = encode
        self._request_id = request_id

    def respond(self, reason: CloseReason | None) -> bytes | None:
        poll = self._poll
        page = poll.reading.after(min(poll.options.limit, POLL_EVENTS), SMALL_BYTES)
        if reason is None and not (page.events or page.gaps):
            return None
        if reason is CloseReason.DISCONNECTED and page.events:
            page = poll.reading.nothing()  # it may read no longer
        try:
            answer = self._answer(page)
        except (RateLimited, Overloaded) as error:
            answer = error_answer(error, "GET", "", "")
            answer.headers = {**answer.headers, HEADER: self._request_id or new_id()}
        return self._encode(answer)

    def _answer(self, page: Page) -> Answer:
        """The answer with `page`, or its beginning. Raises `RateLimited` or `Overloaded` if it is large and lacks room."""
        events: list[bytes] = []
        size = 0
        for topic, log, entry in page.events:
            if len(entry.frame) > SMALL_BYTES:
                self._reserve(len(entry.frame))  # before it is encoded
            event = sse.envelope_value(log.enveloped(topic, entry))
            size += len(event) + 1
            if events and size > SMALL_BYTES:
                page = page.cut(len(events))
                break
            events.append(event)
        answer = _answer(page, events, self._poll.none_match)
        if len(answer.body) > SMALL_BYTES:
            self._reserve(len(answer.body))
        return answer

    def _reserve(self, size: int) -> None:
        """Count `size` bytes until the answer is written."""
        self.release()
        self._poll.unread.check(self._poll.address, size)
        self.hold(size)

    def hold(self, size: int) -> bool:
        return self._poll.unread.hold(self, self._poll.address, size)

    def release(self) -> None:
        self._poll.unread.release(self)


async def read_topic_events(services: Services, request: Request) -> Answer | LongPoll:
    """`GET /topics/{topic}/events`: the events that a topic still has."""
    return await _read(services, request, (request.path_values["topic"],))


async def read_events(services: Services, request: Request) -> Answer | LongPoll:
    """`GET /events?topic=…`: the same for several topics, in the order of their ids."""
    return await _read(services, request, requested_topics(request.query))


async def _read(services: Services, request: Request, topics: Sequence[str]) -> Answer | LongPoll:
    node = services.node
    check_topics(services, topics)
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_subscribe(topics)
    options = _options(request, node)
    none_match = request.headers.get("if-none-match", "")
    unread, address = services.unread_answers, services.addresses.of(request.headers, request.peer)
    if options.wait_seconds and request.method != "HEAD":
        logs = await reserve(node, caller, topics, options.start)
        reading = Reading(topics, logs, options.start, node.logs)
        poll = LongPoll(node, caller, reading, options, none_match, unread, address)
        try:
            node.streams.evictions.check(caller.grant)  # it may have changed while the logs were read
            page = reading.after(1, 0)
            if not (page.events or page.gaps or page.closed):
                return poll
        except BaseException:
            poll.release()
            raise
        release = poll.release
    else:
        logs = await node.logs.watch(topics, options.start, current=True)
        reading = Reading(topics, logs, options.start, node.logs)
        release = partial(node.logs.unwatch, topics)
    with unread.room(address) as reservation:
        try:
            node.streams.evictions.check(caller.grant)
            page = _page(reading, options, reservation.max_bytes)
        finally:
            release()
        page, events = await _encoded(page, reservation)
        return _answer(page, events, none_match)


def _options(request: Request, node: Node) -> HistoryOptions:
    """The options of a request. Raises `InvalidParameter`."""
    query = request.query
    start = requested_start(request, node.clock(), Since(0))
    limit, before, wait = requested_limit(query.get("limit")), query.get("before"), query.get("wait")
    wait_seconds = 0 if wait is None else parse_duration(wait)
    if wait_seconds is None or wait_seconds > MAX_WAIT_SECONDS:
        raise InvalidParameter(f"'wait' must be a duration of at most {MAX_WAIT_SECONDS}s, such as 30s.")
    if before is None:
        return HistoryOptions(start, None, limit, wait_seconds)
    stop = parse_id(before)
    if stop is None:
        raise InvalidParameter("'before' takes the id of an event.")
    if wait_seconds:
        raise InvalidParameter("'wait' waits for new events; leave it out with 'before'.")
    if isinstance(start, Last):  # counted from `before`, not from the end
        return HistoryOptions(Since(0), stop, min(limit, start.count), 0)
    return HistoryOptions(start, stop, limit, 0)


def _page(reading: Reading, options: HistoryOptions, max_bytes: int) -> Page:
    if options.before is None:
        return reading.after(options.limit, max_bytes)
    return reading.before(options.before, options.limit, max_bytes)


async def _encoded(page: Page, reservation: Reservation) -> tuple[Page, Sequence[bytes]]:
    """The events of `page` as JSON, and the page; cut if they are too many bytes. Raises as `Reservation.need`."""
    events: list[bytes] = []
    size = in_slice = 0
    for found in reversed(page.events) if page.is_backward else page.events:
        if not events:
            reservation.need(len(found.entry.frame))  # before it is encoded
        event = _as_json(found)
        size += len(event) + 1
        if size > reservation.max_bytes:
            if events:
                page = page.cut(len(events))
                break
            reservation.need(size)
        events.append(event)
        in_slice += len(event)
        if in_slice > SLICE_BYTES or not len(events) % SLICE_EVENTS:
            in_slice = 0
            await asyncio.sleep(0)
    if page.is_backward:
        events.reverse()
    return page, events


def _as_json(found: Found) -> bytes:
    """An event as JSON. The log doesn't keep it: pages of history are read once."""
    topic, log, entry = found
    envelope = entry.enveloped
    if envelope is None:
        envelope = sse.envelope(topic, entry.frame, entry.id, log.timeline.seconds(entry.id))
    return sse.envelope_value(envelope)


def _answer(page: Page, events: Sequence[bytes], none_match: str) -> Answer:
    rest: dict[str, object] = {
        "cursor": format_id(page.cursor),
        "more": page.more,
        "gap": _gap(page.gaps),
        "closed": page.closed,
    }
    if page.ends:
        rest["ends"] = [_end(topic, entry) for topic, entry in page.ends.items()]
    body = b'{"events":[%b],%b' % (b",".join(events), json.dumps(rest, separators=(",", ":")).encode()[1:])
    return tagged(body, _HEADERS, none_match)


def _gap(gaps: Sequence[Gap]) -> dict[str, object] | None:
    """The gap before the events; if there are several, which several topics may have, the others are in its `also`."""
    if not gaps:
        return None
    first, *others = (gap._asdict() for gap in gaps)
    return first | {"also": others} if others else first


def _end(topic: str, end: Entry) -> dict[str, object]:
    """Why a topic ended, as `broker.end` has it."""
    reason = json.loads(sse.split(end.frame).data)["reason"]
    return {"topic": topic, "id": format_id(end.id), "reason": reason}
