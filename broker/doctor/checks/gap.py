"""Whether a subscriber gets `broker.gap` before the events after a gap."""

from __future__ import annotations

import re

from broker.doctor.finding import Verdict, error, ok
from broker.doctor.site import NothingArrived, RequestFailed, Site

SECONDS = 5.0
_REASON = re.compile(r'"reason":"([a-z-]+)"')
UNKNOWN = "no-id-of-this-broker"


async def check(site: Site) -> Verdict:
    topic = site.topic("gap")
    cursor = await site.publish_id(topic, "seen")
    if not site.is_admin:
        return await _told(site, topic, UNKNOWN, "a cursor that isn't from this broker")
    await site.publish_id(topic, "lost")
    if (await site.request("DELETE", f"/topics/{topic}")).status != 204:
        raise RequestFailed("a topic could not be deleted")
    await site.publish_id(topic, "later")
    return await _told(site, topic, cursor, "a cursor before events that were deleted")


async def _told(site: Site, topic: str, cursor: str, what: str) -> Verdict:
    async with site.stream(topic, {"lastEventId": cursor}) as stream:
        await stream.wait(stream.published, SECONDS)
        if not stream.events:
            raise NothingArrived(f"A reconnect with {what} got neither an event nor a broker.gap.")
        gap = stream.control("broker.gap")
        if gap is None:
            return error(f"A reconnect with {what} got no broker.gap: events are lost in silence.", site.hop)
        told_first = stream.events[0][1] is gap
        found = _REASON.search(gap.data)
    reason = f" ({found[1]})" if found else ""
    if not told_first:
        return error(f"A reconnect with {what} got an event before its broker.gap.", site.hop)
    return ok(f"A reconnect with {what} gets broker.gap{reason} before the next event.")
