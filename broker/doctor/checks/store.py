"""Whether the brokers behind the URL share a store: without one, an event reaches only the subscribers of its own broker."""

from __future__ import annotations

import asyncio
import secrets

from broker.doctor.finding import Verdict, error, ok
from broker.doctor.site import RequestFailed, Site

REQUESTS = 10


async def check(site: Site) -> Verdict:
    topic = site.topic("store")
    await site.publish_id(topic)
    found = await asyncio.gather(*(_finds(site, topic) for _ in range(REQUESTS)))
    if all(found):
        return ok(f"An event is found by each of {REQUESTS} requests on connections of their own.")
    return error(
        f"Of {REQUESTS} requests on connections of their own, {sum(found)} found an event that was just published: several "
        "brokers answer at this URL, and they share no store."
    )


async def _finds(site: Site, topic: str) -> bool:
    """Whether the history has the event, asked past any cache."""
    reply = await site.request(
        "GET", f"/topics/{topic}/events", {"_": secrets.token_hex(4)}, {"Connection": "close"}
    )
    if reply.status != 200:
        raise RequestFailed(f"the history was answered with {reply.status}")
    return bool(reply.json().get("events"))
