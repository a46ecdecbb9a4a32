"""The representation of a topic that `Accept` asks for (contract §3, RFC 9110 §12.5.1)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from functools import lru_cache

MAX_RANGES = 64
MAX_PARAMETERS = 8
"""Further media ranges, or parameters of one, are ignored. Browsers send about six."""
MAX_CACHED_CHARS = 512


class Representation(enum.Enum):
    """A media type that a topic can be answered as."""

    STREAM = "text/event-stream"
    JSON = "application/json"
    HTML = "text/html"


def representation(accept: str) -> Representation:
    """The representation, by the first line that applies:

    names text/event-stream       the stream
    prefers text/html             HTML
    names application/json        JSON
    anything else                 the stream
    """
    weights = _weights_of(accept)
    if Representation.STREAM.value in weights:
        return Representation.STREAM
    html = weights.get(Representation.HTML.value, 0)
    if html and html >= max(weights.values()):
        return Representation.HTML
    return Representation.JSON if Representation.JSON.value in weights else Representation.STREAM


def names_stream(accept: str) -> bool:
    """Whether the client is or may be an EventSource, which gives up for good on any status but 200."""
    return Representation.STREAM.value in _weights_of(accept)


def _weights_of(accept: str) -> Mapping[str, float]:
    """`_weights`, remembered for what clients really send: a few short texts."""
    return _cached_weights(accept) if len(accept) <= MAX_CACHED_CHARS else _weights(accept)


def _weights(accept: str) -> Mapping[str, float]:
    """The weight of each media range, if above 0; a malformed weight counts as 1."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(",", MAX_RANGES)[:MAX_RANGES]:
        name, *parameters = map(str.strip, part.split(";", MAX_PARAMETERS + 1)[: MAX_PARAMETERS + 1])
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = _number(value)
        if name and weight > 0:
            weights[name] = weight
    return weights


_cached_weights = lru_cache(maxsize=512)(_weights)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
