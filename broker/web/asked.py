"""What a publish asks for beside its events: that topics end, that a repeated part counts once, how long to keep it all.

Rules: reads a request's query and headers; what it means is the store's business (`stores.base.Asked`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web

from broker.errors import InvalidParameter
from broker.start import age_seconds
from broker.stores.base import PLAIN, Asked
from broker.web.keys import SETTINGS

_PRODUCER = re.compile(r"[A-Za-z0-9._~:@-]{1,100}")
_MAX_SEQUENCE_DIGITS = 15  # which the store's numbers hold exactly


def asked_with_event(request: web.Request, topics: Sequence[str]) -> Asked:
    """For one event to `topics`. Raises `InvalidParameter`."""
    if "Broker-Producer" in request.headers:
        raise InvalidParameter(
            "Broker-Producer goes with a streamed body; for one event there is Idempotency-Key."
        )
    if not request.query_string:
        return PLAIN
    ends, retain_seconds = topics if _ends(request) else (), _retain_seconds(request)
    return PLAIN if not ends and retain_seconds is None else Asked(ends, None, retain_seconds)


def asked_with_stream(request: web.Request, topic: str | None) -> Asked:
    """For a streamed body to `topic`, or to the topics that its events name; it is for the whole body.

    Raises:
        InvalidParameter: a value is outside its rule, or goes with one topic only.
    """
    producer = _producer(request)
    ends = _ends(request)
    if topic is None and (ends or producer is not None):
        raise InvalidParameter(
            "'end' and Broker-Producer are for a body to one topic: POST it to /topics/{topic}."
        )
    return Asked((topic,) if topic is not None and ends else (), producer, _retain_seconds(request))


def _ends(request: web.Request) -> bool:
    text = request.query.get("end", "false")
    if text not in ("true", "false"):
        raise InvalidParameter("'end' is true, or false.")
    return text == "true"


def _retain_seconds(request: web.Request) -> float | None:
    text = request.query.get("retain")
    if text is None:
        return None
    most = request.app[SETTINGS].retain_max_seconds
    seconds = age_seconds(text)
    if seconds is None or not 0 < seconds <= most:
        raise InvalidParameter(f"'retain' is a time such as 90s, 10m, 24h; at most {most:g} s here.")
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
    return text.isascii() and text.isdigit() and len(text) <= _MAX_SEQUENCE_DIGITS and int(text) > 0
