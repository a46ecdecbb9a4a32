"""Reads the history of topics, and the list of topics (contract §4).

Rules: values in, values out; a client sends the requests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.client.address import topic_url
from broker.client.errors import ClientError, json_object, unexpected
from broker.client.response import Response
from broker.client.types import Gap, TopicState
from broker.events import Event

HISTORY_BYTES = 16 << 20
"""The largest answer: 1 MiB of events, or one larger event."""
TOPICS_BYTES = 1 << 20
"""The largest answer to a page of topics: each has a name of at most 200 characters."""


@dataclass(frozen=True, slots=True)
class History:
    """Events that topics still have.

    Attributes:
        events: oldest first, each with its topic.
        cursor: a subscription with this cursor continues behind them, without a hole or a double.
        more: whether there are further events.
        gap: the gap before the first event, or None.
        closed: whether all topics are closed.
    """

    events: Sequence[Event]
    cursor: str
    more: bool
    gap: Gap | None
    closed: bool


def history_url(
    base: str,
    topics: Sequence[str],
    *,
    since: str | None,
    last: int | None,
    cursor: str | None,
    before: str | None,
    limit: int | None,
) -> str:
    """The URL of the history of `topics`. Raises `ClientError` for an invalid topic, `ValueError` for none."""
    given = {"since": since, "last": last, "lastEventId": cursor, "before": before, "limit": limit}
    query = {name: str(value) for name, value in given.items() if value is not None}
    url = topic_url(ClientError, base, list(dict.fromkeys(topics)), query)
    path, mark, rest = url.removeprefix(base).partition("?")
    return f"{base}{'/events' if path == '/topics' else path + '/events'}{mark}{rest}"


def decode_history(response: Response) -> History:
    """The history in a response. Raises `ClientError` if a broker doesn't send such a response."""
    try:
        value = json_object(response.body)
        gap = value["gap"]
        return History(
            [_event(one) for one in value["events"]],
            str(value["cursor"]),
            bool(value["more"]),
            None if gap is None else _gap(gap),
            bool(value["closed"]),
        )
    except (ValueError, KeyError, TypeError):
        raise unexpected(ClientError, "The response is not a history", response.status) from None


def decode_topics(response: Response, after: str | None = None) -> tuple[Sequence[TopicState], str | None]:
    """The topics in the response to a request for those `after`, and the `next` page.

    Raises `ClientError` if a broker doesn't send such a response: each page begins after the one before.
    """
    try:
        value = json_object(response.body)
        following = value["next"]
        states = [_state(one) for one in value["topics"]]
        if following is not None and _text(following) <= (after or ""):
            raise ValueError("the next page is not behind this one")
        return states, following
    except (ValueError, KeyError, TypeError):
        raise unexpected(ClientError, "The response is not a list of topics", response.status) from None


def _event(value: dict[str, Any]) -> Event:
    event_type = None if value["event"] is None else _text(value["event"])
    return Event(_text(value["data"]), event_type, _text(value["id"]), _text(value["topic"]))


def _gap(value: dict[str, Any]) -> Gap:
    topic, after, reason = (_text(value[name]) for name in ("topic", "after", "reason"))
    data = json.dumps({"topic": topic, "after": after, "reason": reason}, separators=(",", ":"))
    return Gap(data, "broker.gap", after, topic, after, reason)  # as a stream has it


def _state(value: dict[str, Any]) -> TopicState:
    subscribers, events, size = (_count(value[name]) for name in ("subscribers", "events", "bytes"))
    first_id, last_id = (
        None if value[name] is None else _text(value[name]) for name in ("first_id", "last_id")
    )
    return TopicState(
        _text(value["topic"]), subscribers, events, size, first_id, last_id, closed=bool(value["closed"])
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value
