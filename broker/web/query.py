"""What several handlers read from a request's query."""

from __future__ import annotations

from aiohttp import web

from broker.errors import InvalidParameter
from broker.topics import MAX_TOPICS_PER_REQUEST


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
