"""Whether `Host` arrives unchanged: the broker compares it with the origin of a page."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, info, ok
from broker.doctor.site import POSTS, Site


async def check(site: Site) -> Verdict:
    topic = site.topic(POSTS)
    reply = await site.publish(topic, headers={"Origin": site.origin})
    if reply.status == 201 and "Access-Control-Allow-Origin" in reply.headers:
        return info(
            f"The broker allows {site.origin} by --cors-origins, so the doctor can't check whether Host arrives unchanged."
        )
    if reply.status == 201:
        return ok("A page of this URL may publish: Host arrives unchanged.")
    return error(
        f"A page of {site.origin} may not publish ({reply.status} {reply.code}): the broker takes it for a page of another "
        "site, because a hop changes Host.".replace("  ", " "),
        site.hop,
    )
