"""Whether a hop answers from a cache."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, ok, warning
from broker.doctor.site import Reply, RequestFailed, Site

_HITS = ("X-Cache", "X-Cache-Status", "X-Proxy-Cache", "CF-Cache-Status", "Cache-Status")


async def check(site: Site) -> Verdict:
    topic = site.topic("caching")
    path = f"/topics/{topic}/events"
    sizes = []
    for _ in range(2):
        await site.publish_id(topic)
        reply = await site.request("GET", path)
        if reply.status != 200:
            raise RequestFailed(f"the history was answered with {reply.status}")
        events = reply.json().get("events")
        sizes.append(len(events) if isinstance(events, list) else 0)
    if sizes != [1, 2]:
        return error(
            f"After a second event, the history still had {sizes[1]} of 2 events: a hop answers from a cache.",
            site.hop,
        )
    trace = _trace(reply)
    if trace:
        return warning(f"The history is up to date, but a cache has answered: {trace}.", site.hop)
    return ok("The history has each event as soon as it is published, and no answer names a cache.")


def _trace(reply: Reply) -> str:
    """The header by which a cache says that it answered; "" without one."""
    for name in _HITS:
        if "hit" in reply.headers.get(name, "").lower():
            return f"{name}: {reply.headers[name]}"
    age = reply.headers.get("Age", "0")
    return f"Age: {age}" if age.isascii() and age.isdigit() and age.strip("0") else ""
