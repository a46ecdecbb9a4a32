"""Reads the options of a publish from the query and the headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from broker.durations import parse_duration
from broker.errors import InvalidParameter
from broker.settings import Settings
from broker.stores.base import CLOSED, NO_OPTIONS, PublishOptions
from broker.topics import MAX_TOPICS_PER_REQUEST, check_type
from broker.web.end_mark import EndMark
from broker.web.values import Query, Request

ON_DISCONNECT = "on-disconnect"

OWN_REASONS = frozenset({"deleted", "abandoned", "cancelled"})
"""Reasons of ends that only the broker gives."""

_REASON = re.compile(r"[a-z0-9-]{1,40}")
_PRODUCER = re.compile(r"[A-Za-z0-9._~:@-]{1,100}")
_MAX_SEQUENCE_DIGITS = 15  # which a Lua number holds exactly


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The options of a streamed body.

    Attributes:
        ends: the topic closes when the body ends.
        reason: of that end.
        mark: its last event, if it is whole; None if every clean end counts.
        leased: the topic also closes if the producer disappears before that.
        producer: its name, and the sequence number of the body's first event.
        retain_seconds: see `PublishOptions`.
        last_viewer_seconds: the producer is cancelled after this time without viewers; 0 for never.
    """

    ends: bool = False
    reason: str = CLOSED
    mark: EndMark | None = None
    leased: bool = False
    producer: tuple[str, int] | None = None
    retain_seconds: float | None = None
    last_viewer_seconds: float = 0.0


def requested_topics(query: Query) -> tuple[str, ...]:
    """The topics in the query, each once. Raises `InvalidParameter` for none or too many."""
    topics = tuple(dict.fromkeys(query.getall("topic")))
    if not topics:
        raise InvalidParameter("Name at least one topic with ?topic=NAME.")
    if len(topics) > MAX_TOPICS_PER_REQUEST:
        raise InvalidParameter(f"A request may name at most {MAX_TOPICS_PER_REQUEST} topics.")
    return topics


def event_options(request: Request, topics: Sequence[str], settings: Settings) -> PublishOptions:
    """The options of one event for `topics`. Raises `InvalidParameter`."""
    headers, query = request.headers, request.query
    if "broker-producer" in headers or "broker-sequence" in headers:
        raise InvalidParameter("Broker-Producer needs a streamed body; for one event use Idempotency-Key.")
    if not query.raw:
        return NO_OPTIONS
    end, retain_seconds = _end(query), _retain_seconds(query, settings)
    if end == ON_DISCONNECT:
        raise InvalidParameter("end=on-disconnect needs a streamed body.")
    reason = _reason(query, end)
    if "end_data" in query or "end_event" in query:
        raise InvalidParameter("'end_data' and 'end_event' need a streamed body; one event is always whole.")
    if end is None and retain_seconds is None:
        return NO_OPTIONS
    return PublishOptions(topics if end else (), None, retain_seconds, reason)


def stream_options(request: Request, topic: str | None, settings: Settings) -> StreamOptions:
    """The options of a streamed body; its lines name their topics if `topic` is None.

    Raises:
        InvalidParameter: an option is malformed, or needs a single topic.
    """
    query = request.query
    end, last_viewer_seconds, producer = _end(query), _age(query, "last_viewer"), _producer(request)
    if topic is None and (end or last_viewer_seconds is not None or producer is not None):
        raise InvalidParameter(
            "'end', 'last_viewer' and Broker-Producer need a body to one topic: POST it to /topics/{topic}."
        )
    if last_viewer_seconds is None:
        last_viewer_seconds = settings.last_viewer_seconds
    return StreamOptions(
        ends=end is not None,
        reason=_reason(query, end),
        mark=_mark(query, end),
        leased=end == ON_DISCONNECT,
        producer=producer,
        retain_seconds=_retain_seconds(query, settings),
        last_viewer_seconds=last_viewer_seconds,
    )


def _end(query: Query) -> str | None:
    text = query.get("end")
    if text not in (None, "true", "false", ON_DISCONNECT):
        raise InvalidParameter(f"'end' must be true or false, or with a streamed body {ON_DISCONNECT}.")
    return None if text == "false" else text


def _reason(query: Query, end: str | None) -> str:
    text = query.get("reason")
    if text is None:
        return CLOSED
    if end is None:
        raise InvalidParameter("'reason' says why the topic ends; it needs end=true.")
    if not _REASON.fullmatch(text) or text in OWN_REASONS:
        raise InvalidParameter(
            "'reason' must be 1 to 40 characters of a-z 0-9 -, such as failed; the broker itself says "
            f"{', '.join(sorted(OWN_REASONS))}."
        )
    return text


def _mark(query: Query, end: str | None) -> EndMark | None:
    data, event_type = query.get("end_data"), query.get("end_event")
    if data is None and event_type is None:
        return None
    if end is None:
        raise InvalidParameter(
            f"'end_data' and 'end_event' say how the end is known; they need end=true or end={ON_DISCONNECT}."
        )
    query.check_utf8()
    return EndMark(data, None if event_type is None else check_type(event_type))


def _retain_seconds(query: Query, settings: Settings) -> float | None:
    seconds = _age(query, "retain")
    if seconds is not None and seconds > settings.retain_max_seconds:
        raise InvalidParameter(f"'retain' may be at most {settings.retain_max_seconds:g} s here.")
    return seconds


def _age(query: Query, name: str) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    seconds = parse_duration(text)
    if not seconds:
        raise InvalidParameter(f"'{name}' must be a duration such as 90s, 10m or 24h.")
    return seconds


def _producer(request: Request) -> tuple[str, int] | None:
    name, number = request.headers.get("broker-producer"), request.headers.get("broker-sequence")
    if name is None and number is None:
        return None
    if name is None or not _PRODUCER.fullmatch(name):
        raise InvalidParameter("Broker-Producer must be 1 to 100 characters of A-Z a-z 0-9 . _ ~ : @ -.")
    if number is None or not _is_sequence(number):
        raise InvalidParameter(
            "Broker-Producer needs Broker-Sequence: the number, from 1, that the body's first event has in the "
            f"producer's stream; at most {_MAX_SEQUENCE_DIGITS} digits."
        )
    return name, int(number)


def _is_sequence(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_SEQUENCE_DIGITS and int(text) >= 1
