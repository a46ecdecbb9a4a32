"""`GET /topics/{topic}` and `GET /topics?topic=…` as a stream (contract §3)."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import hdrs, web

from broker import sse
from broker.auth.grants import Caller
from broker.errors import InvalidParameter, RateLimited, Unavailable
from broker.log.log import Log
from broker.log.start import After, Latest, Start, from_cursor, from_last, from_since
from broker.node.node import Node
from broker.topics import check_topic
from broker.web import handover
from broker.web.accept import names_stream
from broker.web.answers import head_lines, http_date
from broker.web.app_keys import NODE, SETTINGS
from broker.web.identity import caller_of

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_VARYING = HEADERS | {"Vary": "Accept"}
_NOTHING_MORE = {"Cache-Control": "no-store", "Vary": "Accept"}
_HEAD = (
    "HTTP/1.1 200 OK\r\n" + "".join(f"{k}: {v}\r\n" for k, v in HEADERS.items()) + "Connection: close\r\n"
).encode()


async def subscribe(request: web.Request, topics: tuple[str, ...]) -> web.Response:
    """The stream of `topics`, or the refusal that suits who asks."""
    node = request.app[NODE]
    for topic in topics:
        check_topic(topic)
    most = request.app[SETTINGS].max_topics_per_connection
    if len(topics) > most:
        node.metrics.refused_connects.labels("max_topics_per_connection").inc()
        raise InvalidParameter(f"At most {most} topics go on one stream; open another for the rest.")
    caller = await caller_of(request)
    caller.grant.check_subscribe(topics)
    start = _start(request, node)
    enveloped = _enveloped(request)
    is_head = request.method == hdrs.METH_HEAD
    if is_head and not isinstance(start, After):
        return web.Response(headers=_VARYING)
    try:
        node.streams.check_room()
        logs = await _begin(node, caller, topics, start)
    except (Unavailable, RateLimited) as error:
        node.metrics.refused_connects.labels(str(error.extra.get("limit", error.code))).inc()
        if names_stream(request.headers.get(hdrs.ACCEPT, "")):
            return _come_back(node)
        raise
    is_over = node.streams.has_seen_all(logs, start)
    if is_over or is_head:
        node.logs.unwatch(topics)
        node.limits.leave(caller)
        return web.Response(status=204, headers=_NOTHING_MORE) if is_over else web.Response(headers=_VARYING)
    try:
        node.streams.evictions.check(caller.grant)  # which may have changed meanwhile
        transport = handover.take(request)
    except BaseException:
        node.logs.unwatch(topics)
        node.limits.leave(caller)
        raise
    node.streams.attach(
        transport,
        caller,
        b"%bDate: %b\r\n%b\r\n" % (_HEAD, http_date(), head_lines(request, vary="Accept")),
        topics,
        logs,
        start,
        enveloped=enveloped,
    )
    return handover.GONE


async def _begin(node: Node, caller: Caller, topics: Sequence[str], start: Start) -> Sequence[Log]:
    """A place for one more stream of `caller`, and the logs that it reads. Raises `Unavailable` or `RateLimited`."""
    await node.limits.enter(caller)
    try:
        return await node.logs.watch(topics, start)
    except BaseException:
        node.limits.leave(caller)
        raise


def _come_back(node: Node) -> web.Response:
    """A refusal that EventSource survives: a stream that ends at once and asks for a long delay."""
    response = web.Response(headers=_VARYING, body=sse.retry(node.streams.long_retry_ms()))
    response.force_close()
    return response


def _start(request: web.Request, node: Node) -> Start:
    """The first that is present of header `Last-Event-ID`, `lastEventId`, `since`, `last`."""
    cursor = request.headers.get("Last-Event-ID")
    if not cursor and not request.query_string:
        return Latest()
    query = request.query
    cursor = cursor or query.get("lastEventId")
    if cursor:
        return from_cursor(cursor)
    since = query.get("since")
    if since is not None:
        return from_since(since, node.clock())
    last = query.get("last")
    return Latest() if last is None else from_last(last)


def _enveloped(request: web.Request) -> bool:
    form = request.query.get("envelope") if request.query_string else None
    if form not in (None, "json"):
        raise InvalidParameter("The only envelope is 'json'.")
    return form == "json"
