"""Whether `Last-Event-ID` reaches the broker, so that a browser that reconnects misses nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.doctor.finding import Verdict, error, ok
from broker.doctor.site import NOTHING, NothingArrived, RequestFailed, Site

SECONDS = 5.0


async def check(site: Site) -> Verdict:
    topic = site.topic("cursor")
    cursor, *_ = [await site.publish_id(topic, data) for data in "abc"]
    if await _replayed(site, topic, headers={"Last-Event-ID": cursor}) == ["b", "c"]:
        return ok("A reconnect with Last-Event-ID gets every later event.")
    by_query = await _replayed(site, topic, {"lastEventId": cursor}) == ["b", "c"]
    rest = (
        "In the query (lastEventId) the cursor works, so a hop removes or changes the header."
        if by_query
        else "In the query (lastEventId) the cursor doesn't work either."
    )
    return error(
        f"A reconnect with Last-Event-ID did not get the later events: browsers lose events. {rest}", site.hop
    )


async def _replayed(
    site: Site, topic: str, query: Mapping[str, str] = NOTHING, headers: Mapping[str, str] = NOTHING
) -> Sequence[str]:
    """What a reconnect gets."""
    async with site.stream(topic, query, headers) as stream:
        await stream.wait(
            lambda: (
                len(stream.published()) >= 2 or stream.control("broker.open") or stream.status not in (0, 200)
            ),
            SECONDS,
        )
        if stream.has_head and stream.status != 200:
            raise RequestFailed(f"a reconnect was answered with {stream.status}")
        if not stream.events:
            raise NothingArrived("A reconnect with a cursor got no event.")
        return [event.data for _, event in stream.published()]
