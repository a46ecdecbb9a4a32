"""Reads where a reader wants to start, from the headers and the query (contract §3, "Where it starts").

Rules: text only; `log.start` says what a start means for a log.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.events import parse_id
from broker.log.start import Latest, Start, from_cursor, from_last, from_since
from broker.web.values import Query, Request

_CURSOR_NAME = "lasteventid"
_NEW_EVENTS = Latest()


def requested_start(request: Request, now: float, default: Start = _NEW_EVENTS) -> Start:
    """The start from the first of the cursor, `since` and `last`; else `default`. `now` is in seconds since 1970.

    Raises:
        InvalidParameter: `since` or `last` is malformed. A malformed cursor is accepted.
    """
    query = request.query
    cursor = requested_cursor(request)
    if cursor:
        return from_cursor(cursor)
    if not query.raw:
        return default
    since = query.get("since")
    if since is not None:
        return from_since(since, now)
    last = query.get("last")
    return default if last is None else from_last(last)


def requested_cursor(request: Request) -> str:
    """The cursor of the header `Last-Event-ID`, even a malformed one; else the newest well-formed one in the query. "" without one."""
    cursor = request.headers.get("last-event-id")
    if cursor or not request.query.raw:
        return cursor or ""
    return max(_cursors(request.query), key=_rank, default="")


def _rank(cursor: str) -> int:
    """Higher for a newer cursor; -1 for a malformed one."""
    event_id = parse_id(cursor)
    return -1 if event_id is None else event_id


def _cursors(query: Query) -> Sequence[str]:
    """The cursors in the query that aren't empty, under any spelling of the name."""
    return [
        cursor
        for name in query.names()
        if name.replace("-", "").replace("_", "").lower() == _CURSOR_NAME
        for cursor in query.getall(name)
        if cursor
    ]
