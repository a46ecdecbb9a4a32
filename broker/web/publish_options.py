"""What a publish asks for beside its events: that topics end, that a repeated part counts once, how long to keep it all.

Rules: reads a request's query and headers; what it means is the store's business (`stores.base.PublishOptions`), and that of
`producing`.

What several handlers read from a request's query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from aiohttp import web

from broker.durations import parse_duration
from broker.errors import InvalidParameter
from broker.stores.base import NO_OPTIONS, PublishOptions
from broker.topics import MAX_TOPICS_PER_REQUEST
from broker.web.app_keys import SETTINGS


def topics_of(request: web.Request) -> tuple[str, ...]:
    """The topics that the query names, each once.

    Raises:
        InvalidParameter: none, or too many.
    """
    topics = tuple(dict.fromkeys(request.query.getall("topic", ())))
    if not topics:
        raise InvalidParameter("Name at least one topic: /topics?topic=NAME.")
    if len(topics) > MAX_TOPICS_PER_REQUEST:
        raise InvalidParameter(f"At most {MAX_TOPICS_PER_REQUEST} topics go into one request.")
    return topics


def check_escapes(request: web.Request) -> None:
    """Raises `InvalidParameter` where the query's percent-escapes are no UTF-8: its values would be the escapes themselves."""
    try:
        unquote_to_bytes(request.rel_url.raw_query_string).decode()
    except UnicodeDecodeError:
        raise InvalidParameter("The query's percent-escapes are not valid UTF-8.") from None


ON_DISCONNECT = "on-disconnect"

_PRODUCER = re.compile(r"[A-Za-z0-9._~:@-]{1,100}")
_MAX_SEQUENCE_DIGITS = 15  # which the store's numbers hold exactly


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What goes with a streamed body.

    Attributes:
        ends: the topic ends with the body.
        leased: it also ends where the producer goes away without ending the body.
        producer: its name, and the number of the body's first event within its stream.
        retain_seconds: see `PublishOptions`.
        last_viewer_seconds: the producer is asked to stop when nobody has watched for so long; 0 for never.
    """

    ends: bool = False
    leased: bool = False
    producer: tuple[str, int] | None = None
    retain_seconds: float | None = None
    last_viewer_seconds: float = 0.0


def asked_with_event(request: web.Request, topics: Sequence[str]) -> PublishOptions:
    """For one event to `topics`. Raises `InvalidParameter`."""
    if "Broker-Producer" in request.headers or "Broker-Sequence" in request.headers:
        raise InvalidParameter(
            "Broker-Producer goes with a streamed body; for one event there is Idempotency-Key."
        )
    if not request.query_string:
        return NO_OPTIONS
    end, retain_seconds = _end(request), _retain_seconds(request)
    if end == ON_DISCONNECT:
        raise InvalidParameter("'end' takes on-disconnect with a streamed body only.")
    ends = topics if end else ()
    return NO_OPTIONS if not ends and retain_seconds is None else PublishOptions(ends, None, retain_seconds)


def wish_of(request: web.Request, topic: str | None) -> StreamOptions:
    """For a streamed body to `topic`, or to the topics that its events name; it is for the whole body.

    Raises:
        InvalidParameter: a value is outside its rule, or goes with one topic only.
    """
    end, viewer, producer = _end(request), _age(request, "last_viewer"), _producer(request)
    if topic is None and (end or viewer is not None or producer is not None):
        raise InvalidParameter(
            "'end', 'last_viewer' and Broker-Producer are for a body to one topic: POST it to /topics/{topic}."
        )
    return StreamOptions(
        ends=end is not None,
        leased=end == ON_DISCONNECT,
        producer=producer,
        retain_seconds=_retain_seconds(request),
        last_viewer_seconds=request.app[SETTINGS].last_viewer_seconds if viewer is None else viewer,
    )


def _end(request: web.Request) -> str | None:
    text = request.query.get("end", "false") if request.query_string else "false"
    if text not in ("true", "false", ON_DISCONNECT):
        raise InvalidParameter(f"'end' is true, or false, or with a streamed body {ON_DISCONNECT}.")
    return None if text == "false" else text


def _retain_seconds(request: web.Request) -> float | None:
    seconds, most = _age(request, "retain"), request.app[SETTINGS].retain_max_seconds
    if seconds is not None and seconds > most:
        raise InvalidParameter(f"'retain' is at most {most:g} s here.")
    return seconds


def _age(request: web.Request, name: str) -> float | None:
    text = request.query.get(name) if request.query_string else None
    if text is None:
        return None
    seconds = parse_duration(text)
    if not seconds:
        raise InvalidParameter(f"'{name}' is a time such as 90s, 10m, 24h.")
    return seconds


def _producer(request: web.Request) -> tuple[str, int] | None:
    name, number = request.headers.get("Broker-Producer"), request.headers.get("Broker-Sequence")
    if name is None and number is None:
        return None
    if name is None or not _PRODUCER.fullmatch(name):
        raise InvalidParameter("Broker-Producer is 1 to 100 characters of A-Z a-z 0-9 . _ ~ : @ -.")
    if number is None or not _is_sequence(number):
        raise InvalidParameter(
            "Broker-Sequence goes with Broker-Producer: the number, from 1, of the body's first event within the "
            f"producer's stream, of at most {_MAX_SEQUENCE_DIGITS} digits."
        )
    return name, int(number)


def _is_sequence(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_SEQUENCE_DIGITS and int(text) >= 1
