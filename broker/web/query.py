"""What several handlers read from a request's query."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

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


def check_escapes(request: web.Request) -> None:
    """Raises `InvalidParameter` where the query's percent-escapes are no UTF-8: its values would be the escapes themselves."""
    try:
        unquote_to_bytes(request.rel_url.raw_query_string).decode()
    except UnicodeDecodeError:
        raise InvalidParameter("The query's percent-escapes are not valid UTF-8.") from None
