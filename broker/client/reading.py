"""Reads the history of topics: `GET /topics/{topic}/events` and `GET /events` (contract §4).

Rules: values in, values out; `Client.history` sends the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.client.address import topic_url
from broker.client.errors import ClientError, json_object, unexpected
from broker.client.requests import Response
from broker.client.types import Gap
from broker.events import Event

HISTORY_BYTES = 16 << 20
"""The largest answer: 1 MiB of events, or one larger event."""


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
            [Event(one["data"], one["event"], one["id"], one["topic"]) for one in value["events"]],
            str(value["cursor"]),
            bool(value["more"]),
            None if gap is None else Gap("", "broker.gap", "", gap["topic"], gap["after"], gap["reason"]),
            bool(value["closed"]),
        )
    except (ValueError, KeyError, TypeError):
        raise unexpected(ClientError, "The response is not a history", response.status) from None
