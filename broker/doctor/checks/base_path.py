"""Whether everything that the broker offers is reachable below the URL: topics, history, the page and its scripts."""

from __future__ import annotations

from broker.doctor.finding import Verdict, ok, warning
from broker.doctor.site import Site

PATHS = ("/events?topic={topic}", "/", "/client.js", "/openapi.json")


async def check(site: Site) -> Verdict:
    topic = site.topic("paths")
    missing = []
    for path in PATHS:
        bare, _, query = path.partition("?")
        reply = await site.request(
            "GET",
            bare,
            {"topic": topic} if query else {},
            {"Accept": "application/json, text/html;q=0.9, */*;q=0.1"},
        )
        if reply.status != 200:
            missing.append(f"{bare} ({reply.status})")
    if missing:
        return warning(
            f"Topics are reachable at {site.target.url}/topics/, but not: {', '.join(missing)}. A hop passes on a part of the "
            "paths only.",
            site.hop,
        )
    return ok(f"Topics are at {site.target.url}/topics/; history, page and scripts are reachable too.")
