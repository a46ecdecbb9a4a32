"""Which form of a topic a request wants, by its Accept (contract §3, RFC 9110 §12.5.1)."""

from __future__ import annotations

import enum
from functools import lru_cache


class Representation(enum.Enum):
    STREAM = "text/event-stream"
    JSON = "application/json"
    HTML = "text/html"


@lru_cache(maxsize=512)
def form_of(accept: str) -> Representation:
    """JSON where it is named and the stream isn't; HTML where nothing is preferred to it; else the stream."""
    weights = _weights(accept)
    if Representation.STREAM.value in weights:
        return Representation.STREAM
    html = weights.get(Representation.HTML.value, 0)
    if html and html >= max(weights.values()):
        return Representation.HTML
    return Representation.JSON if Representation.JSON.value in weights else Representation.STREAM


@lru_cache(maxsize=512)
def names_stream(accept: str) -> bool:
    """Whether it is a browser's EventSource, or says so: it must get a 200, for anything else is final to it."""
    return Representation.STREAM.value in _weights(accept)


def _weights(accept: str) -> dict[str, float]:
    """Media ranges with their weight; those of weight 0 are left out, a weight that is no number counts as 1."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = _number(value)
        if name and weight > 0:
            weights[name] = weight
    return weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
