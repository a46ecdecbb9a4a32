"""`GET /admin/topics` and `GET /admin/topics/{topic}`: the busiest topics, and the subscribers of one, over all instances. For operators."""

from __future__ import annotations

from dataclasses import asdict

from broker.errors import InvalidParameter
from broker.node.node import topic_as_json
from broker.node.topic_ranking import MAX_TOPICS, SORTS, RankedTopic
from broker.topics import MAX_TOPIC_CHARS, check_topic
from broker.web.services import Services
from broker.web.topics import requested_limit
from broker.web.values import Answer, Request, json_answer

_FRESH = {"Cache-Control": "no-store"}


async def busiest(services: Services, request: Request) -> Answer:
    """`GET /admin/topics`: topics by `sort`, with `search` in their name."""
    await _check_admin(services, request)
    query = request.query
    sort, search = query.get("sort") or SORTS[0], query.get("search") or ""
    limit = min(MAX_TOPICS, requested_limit(query.get("limit")))
    if sort not in SORTS:
        raise InvalidParameter(f"'sort' must be one of {', '.join(SORTS)}.")
    if len(search) > MAX_TOPIC_CHARS:
        raise InvalidParameter(f"'search' may have at most {MAX_TOPIC_CHARS} characters.")
    ranking = await services.node.ranking.rank(sort, search)
    body = {
        "topics": [_as_json(ranked) for ranked in ranking.topics[:limit]],
        "matching": ranking.matching,
        "total": ranking.total,
    }
    return json_answer(body, _FRESH)


def _as_json(ranked: RankedTopic) -> dict[str, object]:
    return {
        **topic_as_json(ranked.state),
        "events_per_second": round(ranked.events_per_second, 3),
        "bytes_per_second": round(ranked.bytes_per_second, 1),
    }


async def details(services: Services, request: Request) -> Answer:
    """`GET /admin/topics/{topic}`: what the topic keeps, its lease, its subscribers and its producers."""
    await _check_admin(services, request)
    topic = check_topic(request.path_values["topic"])
    use = await services.node.details.use_of(topic)
    terms = await services.node.terms(topic)
    body = {
        **await services.node.describe(topic),
        "subscribers": use.subscribers,
        "retention": asdict(terms.retention),
        "lease_seconds": None if terms.lease_seconds is None else round(terms.lease_seconds, 1),
        "streams": use.shown_subscribers,
        "producers": use.producers,
        "bodies": use.shown_producers,
    }
    return json_answer(body, _FRESH)


async def _check_admin(services: Services, request: Request) -> None:
    caller = await services.authenticator.authenticate(request)
    caller.grant.check_admin()
