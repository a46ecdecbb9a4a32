"""`/topics` and `/topics/{topic}` by what is asked for: the stream, JSON, or the page; and DELETE (contract §3, §4)."""

from __future__ import annotations

from aiohttp import hdrs, web

from broker.errors import InvalidParameter
from broker.topics import check_publishable, check_topic
from broker.web.accept import Representation, form_of
from broker.web.app_keys import NODE
from broker.web.identity import caller_of
from broker.web.page import page
from broker.web.publish_options import topics_of
from broker.web.subscribe import subscribe

MAX_PAGE = 1000
_FRESH = {"Cache-Control": "no-store", "Vary": "Accept"}


async def topic(request: web.Request) -> web.StreamResponse:
    """One topic, as the request's Accept asks for it."""
    name = request.match_info["topic"]
    form = form_of(request.headers.get(hdrs.ACCEPT, ""))
    if form is Representation.STREAM:
        return await subscribe(request, (name,))
    check_topic(name)
    if form is Representation.HTML:
        return page()
    (await caller_of(request)).grant.check_subscribe((name,))
    return web.json_response(await request.app[NODE].describe(name), headers=_FRESH)


async def topics(request: web.Request) -> web.StreamResponse:
    """Several topics as one stream, or the list of those there are."""
    if "topic" in request.query or form_of(request.headers.get(hdrs.ACCEPT, "")) is not Representation.JSON:
        return await subscribe(request, topics_of(request))
    (await caller_of(request)).grant.check_admin()
    limit = _limit(request.query.get("limit", "100"))
    listed, following = await request.app[NODE].list_topics(request.query.get("after", ""), limit)
    return web.json_response({"topics": listed, "next": following}, headers=_FRESH)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidParameter(f"'limit' takes a whole number from 1 to {MAX_PAGE}.")
    return int(text)


async def delete(request: web.Request) -> web.Response:
    """Empty a topic."""
    name = check_publishable(request.match_info["topic"])
    (await caller_of(request)).grant.check_admin()
    await request.app[NODE].delete(name)
    return web.Response(status=204)
