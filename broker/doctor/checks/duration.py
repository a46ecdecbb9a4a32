"""Whether a hop cuts streams after a time even though events arrive."""

from __future__ import annotations

import asyncio

from broker.doctor.finding import Verdict, error, info, ok
from broker.doctor.site import Site
from broker.doctor.timeouts import Limits, owner
from broker.doctor.wire import LAST_CHUNK, Exchange

EVERY_SECONDS = 1.0
ANSWER_SECONDS = 3.0


async def check(site: Site) -> Verdict:
    topic = site.topic("duration")
    deadline = asyncio.get_running_loop().time() + site.target.idle_seconds
    async with site.stream(topic) as stream:
        await stream.wait(lambda: stream.arrivals, ANSWER_SECONDS)
        while stream.ended is None and asyncio.get_running_loop().time() < deadline:
            await site.publish_id(topic)
            await stream.wait(lambda: False, EVERY_SECONDS)
        return _verdict(site, stream)


def _verdict(site: Site, stream: Exchange) -> Verdict:
    if stream.ended is None:
        return ok(f"A stream with an event each second stayed open for {site.target.idle_seconds:g} s.")
    seconds = stream.ended_at - stream.sent_at
    if stream.ended == LAST_CHUNK and stream.body.count(b"retry:") > 1:
        return info("The broker ended the stream itself: it restarts, or the stream reached its maximum age.")
    found = owner(seconds, site.hops, Limits.ANSWER)
    return error(
        f"A stream was cut after {seconds:.1f} s, although it got an event each second. {found.why}",
        found.hop,
    )
