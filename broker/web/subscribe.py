"""Subscribes: `GET /topics/{topic}` and `GET /topics?topic=…` as a stream (contract §3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from broker import sse
from broker.auth.grants import Caller
from broker.auth.tokens import UnknownKey
from broker.errors import GapFound, InvalidParameter, RateLimited, Unavailable
from broker.fanout.origin import Client
from broker.log.log import Log
from broker.log.start import After, Malformed, Since, Start
from broker.node.node import Node
from broker.topics import check_topic
from broker.web.accept import names_stream
from broker.web.headers import head_lines
from broker.web.services import Services
from broker.web.start_options import requested_start
from broker.web.values import Answer, Query, Request

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_HEAD_ANSWER = Answer(200, headers=HEADERS | {"Vary": "Accept"})
_NO_MORE = Answer(204, headers={"Cache-Control": "no-store", "Vary": "Accept"})
_PLAIN_HEAD = b"HTTP/1.1 200 OK\r\n" + head_lines(HEADERS) + b"Connection: close\r\n"
_CHUNKED_HEAD = _PLAIN_HEAD + b"Transfer-Encoding: chunked\r\n"


@dataclass(slots=True)
class Subscription:
    """A stream that is ready to begin.

    Call either `attach` or `release`, once, before anything is awaited: until then its logs are complete for its start.
    """

    node: Node
    caller: Caller
    topics: Sequence[str]
    logs: Sequence[Log]
    start: Start
    is_enveloped: bool
    is_silent: bool
    is_quiet: bool
    common_headers: bytes

    def attach(self, transport: asyncio.Transport, client: Client, *, chunked: bool) -> None:
        """Begin the stream on `transport`, with the answer's head; `chunked` if the request is HTTP/1.1, for 1.0 knows no chunks."""
        head = b"%b%b\r\n" % (_CHUNKED_HEAD if chunked else _PLAIN_HEAD, self.common_headers)
        self._attach(transport, head, client, chunked=chunked)

    def attach_body(self, transport: asyncio.Transport, client: Client) -> None:
        """The same for a transport that sends the head by itself, and frames the body."""
        self._attach(transport, b"", client, chunked=False)

    def _attach(self, transport: asyncio.Transport, head: bytes, client: Client, *, chunked: bool) -> None:
        self.node.streams.attach(
            transport,
            self.caller,
            head,
            self.topics,
            self.logs,
            self.start,
            enveloped=self.is_enveloped,
            chunked=chunked,
            silent=self.is_silent,
            quiet=self.is_quiet,
            client=client,
        )

    def release(self) -> None:
        """Give up the logs and the caller's place."""
        self.node.logs.unwatch(self.topics)
        self.node.limits.leave(self.caller)


@dataclass(frozen=True, slots=True)
class _StreamHead:
    """What the head of a request says about its stream. It is read once for equal heads, unless `start` depends on the time."""

    topics: Sequence[str]
    start: Start
    is_enveloped: bool
    is_silent: bool
    is_quiet: bool


def is_known_stream(request: Request) -> bool:
    """Whether `subscribe` has served a request with this head before: the topics need not be found again."""
    return isinstance(request.memo.value, _StreamHead)


async def subscribe(
    services: Services, request: Request, topics: Sequence[str] = ()
) -> Answer | Subscription:
    """A stream of `topics`, or one of these answers:

    200  to HEAD, without a body
    200  to a refused EventSource, with a reconnect delay
    204  to a cursor at or after the end of every topic

    Raises:
        GapFound: the stream would begin with a gap, and asks for no control events.
    """
    node = services.node
    head = request.memo.value
    if isinstance(head, _StreamHead):
        topics = head.topics
    else:
        check_topics(services, topics)
    try:
        caller = services.authenticator.authenticate_now(request)
    except UnknownKey:
        if not await services.authenticator.refresh_keys():
            raise
        caller = services.authenticator.authenticate_now(request)
    caller.grant.check_subscribe(topics)
    if not isinstance(head, _StreamHead):
        head = _read_head(request, topics, node.clock())
        if not isinstance(head.start, Since):
            request.memo.value = head
    if head.is_quiet:
        caller.grant.check_admin()
    start, is_silent = head.start, head.is_silent
    is_head = request.method == "HEAD"
    if is_head and not isinstance(start, (After | Malformed) if is_silent else After):
        return _HEAD_ANSWER
    try:
        logs = await reserve(node, caller, topics, start)
    except (Unavailable, RateLimited):
        if not is_silent and names_stream(request.headers.get("accept", "")):
            return _retry_later(node)
        raise
    common_headers = services.response_headers.lines(request.headers.get("origin"), "Accept")
    subscription = Subscription(
        node, caller, topics, logs, start, head.is_enveloped, is_silent, head.is_quiet, common_headers
    )
    try:
        is_over = node.streams.has_seen_all(logs, start)
        if is_silent and not is_over:
            _check_gaps(node, topics, logs, start)
        if not is_over and not is_head:
            node.streams.evictions.check(caller.grant)  # it may have changed while the logs were read
            return subscription
    except BaseException:
        subscription.release()
        raise
    subscription.release()
    return _NO_MORE if is_over else _HEAD_ANSWER


def _read_head(request: Request, topics: Sequence[str], now: float) -> _StreamHead:
    start = requested_start(request, now)
    return _StreamHead(
        topics, start, _is_enveloped(request.query), _is_silent(request), _is_quiet(request.query)
    )


def check_topics(services: Services, topics: Sequence[str]) -> None:
    """Raises `InvalidTopic`, or `InvalidParameter` for too many."""
    for topic in topics:
        check_topic(topic)
    max_topics = services.settings.max_topics_per_connection
    if len(topics) > max_topics:
        services.node.metrics.refused_connects.add("max_topics_per_connection")
        raise InvalidParameter(f"A stream may have at most {max_topics} topics; open another for the rest.")


async def reserve(node: Node, caller: Caller, topics: Sequence[str], start: Start) -> Sequence[Log]:
    """Reserve a place for a stream of `caller`; return its logs. Raises `Unavailable` or `RateLimited`."""
    try:
        node.streams.check_room()
        if node.limits.limits_streams:
            await node.limits.enter(caller)
        try:
            logs = await node.logs.watch(topics, start)
            if node.streams.has_seen_all(logs, start):
                await _confirm(node, topics, start)
            return logs
        except BaseException:
            node.limits.undo_enter(caller)
            raise
    except (Unavailable, RateLimited) as error:
        reason = str(error.extra.get("limit", error.counted_as))
        node.metrics.refused_connects.add(reason)
        node.reporter.report(
            logging.WARNING if isinstance(error, Unavailable) else logging.INFO,
            "stream refused",
            reason,
            topics=topics,
            subject=caller.grant.subject,
            address=caller.address,
        )
        raise


async def _confirm(node: Node, topics: Sequence[str], start: Start) -> None:
    """Have the watched logs as of now: a 204 stops an EventSource for good, and another instance may have opened a name anew."""
    try:
        await node.logs.watch(topics, start, current=True)
    finally:
        node.logs.unwatch(topics)  # one of the two, or after an error the first


def _retry_later(node: Node) -> Answer:
    """A refusal after which an EventSource reconnects: a stream that ends at once, with a long delay."""
    body = sse.retry(node.streams.long_retry_ms())
    return Answer(200, body, _HEAD_ANSWER.headers, closes=True, is_stream=True)


def _check_gaps(node: Node, topics: Sequence[str], logs: Sequence[Log], start: Start) -> None:
    gaps = node.streams.gaps(topics, logs, start)
    if not gaps:
        return
    first, *others = (gap._asdict() for gap in gaps)
    more: dict[str, object] = {"also": others} if others else {}
    raise GapFound(
        "Events after this cursor can't be delivered. Read what the topic still has with since=earliest, or leave the "
        "cursor out to get new events only.",
        **first,
        **more,
    )


def is_silent(query: Query) -> bool:
    """Whether the request wants a stream without control events (contract §3): no other representation will do then."""
    return query.get("control") == "none"


def _is_silent(request: Request) -> bool:
    control = request.query.get("control")
    if control is None:
        return False
    if control != "none":
        raise InvalidParameter("'control' must be none; leave it out to get the broker's own events.")
    if request.version == "1.0":
        raise InvalidParameter(
            "control=none needs HTTP/1.1: without chunks, a stream that was cut looks like one that ended."
        )
    return True


def _is_quiet(query: Query) -> bool:
    heartbeat = query.get("heartbeat")
    if heartbeat not in (None, "none"):
        raise InvalidParameter("'heartbeat' must be none; leave it out to get heartbeats.")
    return heartbeat is not None


def _is_enveloped(query: Query) -> bool:
    envelope = query.get("envelope")
    if envelope not in (None, "json"):
        raise InvalidParameter("'envelope' must be json.")
    return envelope == "json"
