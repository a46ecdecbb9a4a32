"""Whether a hop cuts streams for their silence, after how long, and which hop it is.

The broker's heartbeats hide this, so the stream asks for none, which needs the admin right. One stream is enough: whichever
time-out is the shortest cuts it.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from broker.doctor import wire
from broker.doctor.finding import Verdict, error, info, ok, warning
from broker.doctor.site import RequestFailed, Site
from broker.doctor.timeouts import owner
from broker.doctor.wire import Exchange

HEAD_SECONDS = 5.0
SPARE = 1.2
"""A time-out below this many heartbeats cuts silent streams sooner or later."""
SAFE = 2.0
"""From this many heartbeats on, one may be lost."""


async def check(site: Site) -> Verdict:
    async with site.stream(site.topic("idle"), {"heartbeat": "none"}) as stream:
        await stream.wait(lambda: stream.has_head, HEAD_SECONDS)
        if stream.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return info(
                "Time-outs hide behind the broker's heartbeats, and a stream without heartbeats needs a token with admin."
            )
        if stream.status not in (0, HTTPStatus.OK):
            raise RequestFailed(f"the stream was answered with {stream.status}")
        await stream.wait(lambda: len(stream.heartbeats) > 1, site.target.idle_seconds)
        return await _verdict(site, stream)


async def _verdict(site: Site, stream: Exchange) -> Verdict:
    if len(stream.heartbeats) > 1:
        return info(
            "A stream that asked for no heartbeats got one: the broker is older than this doctor, and its heartbeats hide "
            "time-outs."
        )
    if stream.ended is None:
        return ok(
            f"A stream that was silent for {site.target.idle_seconds:g} s stayed open. To find longer time-outs, watch for longer (--long)."
        )
    if stream.ended == wire.LAST_CHUNK and stream.body.count(b"retry:") > 1:
        return info("The broker ended the stream itself: it restarts, or the stream reached its maximum age.")
    last = stream.arrivals[-1][0] if stream.arrivals else stream.sent_at
    seconds = stream.ended_at - last
    found = owner(seconds, site.hops)
    heartbeat = await asyncio.shield(site.first_heartbeat)
    what = f"A silent stream was cut after {seconds:.1f} s. {found.why}"
    if heartbeat is None:
        return error(f"{what} The broker's heartbeat did not come before that.", found.hop)
    beats = f"The broker sends a heartbeat after {heartbeat:.3g} s of silence"
    if seconds < heartbeat * SPARE:
        return error(f"{what} {beats}: that is too late.", found.hop)
    if seconds < heartbeat * SAFE:
        return warning(f"{what} {beats}: if one is late, the stream is cut.", found.hop)
    return ok(f"{what} {beats}, which keeps streams open.")
