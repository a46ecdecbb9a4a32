"""Reads topics as a stream, as JSON or as the page, and deletes them (contract §3, §4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

from broker.errors import InvalidParameter
from broker.topics import check_publishable, check_topic
from broker.web import page
from broker.web.accept import Representation, representation
from broker.web.admin import report_order
from broker.web.admission import admit
from broker.web.publish_options import requested_topics
from broker.web.services import Services
from broker.web.subscribe import Subscription, is_known_stream, is_silent, subscribe
from broker.web.values import Answer, Request, json_answer

DEFAULT_PAGE = 100
MAX_PAGE = 1000
SLICE_TOPICS = 128
"""Encoded in one turn of the loop; about 0.2 ms."""
_FRESH = {"Cache-Control": "no-store", "Vary": "Accept"}


async def read_topic(services: Services, request: Request) -> Answer | Subscription:
    """`GET /topics/{topic}`: the representation that `Accept` asks for."""
    if is_known_stream(request):
        return await subscribe(services, request)
    topic = request.path_values["topic"]
    wanted = representation(request.headers.get("accept", ""))
    if wanted is Representation.STREAM or is_silent(request.query):
        return await subscribe(services, request, (topic,))
    check_topic(topic)
    if wanted is Representation.HTML:
        return await page.topic(services, request)
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_subscribe((topic,))
    return json_answer(await services.node.describe(topic), _FRESH)


async def read_topics(services: Services, request: Request) -> Answer | Subscription:
    """`GET /topics`: several topics as one stream, or the list of all topics."""
    if is_known_stream(request):
        return await subscribe(services, request)
    query = request.query
    accept = request.headers.get("accept", "")
    wanted = representation(accept)
    if "topic" not in query and not is_silent(query) and wanted is Representation.HTML:
        return await page.topic(services, request)
    if "topic" in query or is_silent(query) or wanted is not Representation.JSON:
        return await subscribe(services, request, requested_topics(query))
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_admin()
    limit = requested_limit(query.get("limit"))
    topics, following = await services.node.list_topics(query.get("after") or "", limit)
    return await _list(topics, following)


async def _list(topics: Sequence[Mapping[str, object]], following: str | None) -> Answer:
    """A page of the list of topics; other requests run while it is made."""
    parts = []
    for first in range(0, len(topics), SLICE_TOPICS):
        parts.append(json.dumps(topics[first : first + SLICE_TOPICS])[1:-1])
        await asyncio.sleep(0)
    body = f'{{"topics": [{", ".join(parts)}], "next": {json.dumps(following)}}}'
    return Answer(200, body.encode(), {**_FRESH, "Content-Type": "application/json; charset=utf-8"})


async def delete_topic(services: Services, request: Request) -> Answer:
    """`DELETE /topics/{topic}`: remove its events, and close it for its subscribers."""
    topic = check_publishable(request.path_values["topic"])
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_admin()
    admit(services, caller)
    await services.node.delete(topic)
    report_order(services, request, "delete", "topic", topic)
    return Answer(204)


def requested_limit(text: str | None) -> int:
    """The most entries of a page. Raises `InvalidParameter`."""
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidParameter(f"'limit' must be a whole number from 1 to {MAX_PAGE}.")
    return int(text)
