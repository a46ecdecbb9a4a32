"""Whether tokens arrive: in the header `Authorization`, and in the query, where a browser's EventSource must put them."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, info, ok
from broker.doctor.site import NothingArrived, Site

SECONDS = 5.0
_LOGS = (
    "The doctor can't see whether a proxy logs it: look into the log, or use a cookie. "
    "The files of deploy/ log only the path."
)


async def check_header(site: Site) -> Verdict:
    if site.target.token is None:
        return info("No token was given.")
    if site.token_in_query:
        return error(
            "The broker accepts the token in the query, but not in Authorization: a hop removes the header.",
            site.hop,
        )
    if not await _is_needed(site):
        return info("The broker needs no token, so the doctor can't see whether the token arrives.")
    return ok("The token arrives in Authorization.")


async def check_query(site: Site) -> Verdict:
    token = site.target.token
    if token is None or not await _is_needed(site):
        return await _check_any_query(site)
    async with site.stream(site.topic("query"), {"access_token": token}, with_token=False) as stream:
        await stream.wait(lambda: stream.has_head, SECONDS)
        if stream.status == 200:
            return ok(f"The token arrives in the query (access_token). {_LOGS}")
        return error(
            f"With the token in the query (access_token), a stream is answered with {stream.status or 'nothing'}: a hop "
            "removes it, and browsers can't send it otherwise.",
            site.hop,
        )


async def _is_needed(site: Site) -> bool:
    """Whether the broker refuses a stream without a token."""
    async with site.stream(site.topic("anonymous"), with_token=False) as stream:
        await stream.wait(lambda: stream.has_head, SECONDS)
        return stream.status == 401


async def _check_any_query(site: Site) -> Verdict:
    topic = site.topic("query")
    await site.publish_id(topic)
    async with site.stream(topic, {"since": "earliest"}) as stream:
        if await stream.wait(stream.published, SECONDS):
            return info(f"The query arrives, but no token is needed. {_LOGS}")
        if not stream.events:
            raise NothingArrived("A stream with since=earliest got no event.")
        return error("The query of a stream (since=earliest) had no effect: a hop removes it.", site.hop)
