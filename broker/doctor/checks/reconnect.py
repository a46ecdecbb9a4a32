"""How long a reconnect takes."""

from __future__ import annotations

import asyncio
from statistics import median

from broker.doctor.finding import Verdict, ok, warning
from broker.doctor.site import NothingArrived, Site

ATTEMPTS = 3
SECONDS = 5.0
SLOW_SECONDS = 1.0


async def check(site: Site) -> Verdict:
    topic = site.topic("reconnect")
    cursor = await site.publish_id(topic, "first")
    await site.publish_id(topic, "missed")
    clock = asyncio.get_running_loop().time
    taken, retry_ms = [], None
    for _ in range(ATTEMPTS):
        began_at = clock()
        async with site.stream(topic, {"lastEventId": cursor}) as stream:
            if not await stream.wait(stream.published, SECONDS):
                raise NothingArrived(f"A reconnect did not bring the missed event within {SECONDS:g} s.")
            taken.append(clock() - began_at)
            retry_ms = stream.retry_ms
    seconds = median(taken)
    wait = "" if retry_ms is None else f" Browsers wait before it, as the broker asks (retry: {retry_ms} ms)."
    what = f"A reconnect takes {seconds * 1000:.0f} ms from the connection to the missed event.{wait}"
    if retry_ms is None:
        return warning(
            f"{what} But the stream began without `retry:`, so all browsers come back at the same time.",
            site.hop,
        )
    return warning(what, site.hop) if seconds > SLOW_SECONDS else ok(what)
