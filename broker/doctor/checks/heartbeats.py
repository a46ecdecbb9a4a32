"""Whether heartbeats arrive on a silent stream, and how often."""

from __future__ import annotations

from http import HTTPStatus

from broker.doctor.finding import Verdict, error, info, ok, warning
from broker.doctor.site import NothingArrived, RequestFailed, Site
from broker.doctor.timeouts import owner
from broker.doctor.wire import Exchange

OPEN_SECONDS = 5.0
ENOUGH = 2
USUAL_SECONDS = 15.0
"""The broker's default."""
LONG_SECONDS = 55.0
"""Some proxies cut after 60 s."""


async def check(site: Site) -> Verdict:
    try:
        async with site.stream(site.topic("heartbeats")) as stream:
            await stream.wait(
                lambda: stream.arrivals or stream.status not in (0, HTTPStatus.OK), OPEN_SECONDS
            )
            if stream.status not in (0, HTTPStatus.OK):
                raise RequestFailed(f"the stream was answered with {stream.status}")
            await stream.wait(lambda: len(stream.heartbeats) > 1, site.target.idle_seconds)
            came = len(stream.heartbeats) > 1
            site.first_heartbeat.set_result(stream.heartbeats[1] - stream.heartbeats[0] if came else None)
            await stream.wait(lambda: len(stream.heartbeats) > ENOUGH, _left(site, stream))
            return _verdict(site, stream)
    finally:
        if not site.first_heartbeat.done():
            site.first_heartbeat.set_result(USUAL_SECONDS)


def _left(site: Site, stream: Exchange) -> float:
    """The seconds that are left for the second heartbeat."""
    used = stream.heartbeats[-1] - stream.sent_at if len(stream.heartbeats) > 1 else site.target.idle_seconds
    return max(0.0, site.target.idle_seconds - used)


def _verdict(site: Site, stream: Exchange) -> Verdict:
    if len(stream.heartbeats) > 1:
        first, second, *_ = stream.heartbeats
        interval = second - first
        if stream.ended is not None:
            return error(
                f"A stream was cut after {stream.ended_at - stream.sent_at:.1f} s, in spite of its heartbeats."
            )
        if interval > LONG_SECONDS:
            return warning(
                f"The first heartbeat came after {interval:.1f} s: many proxies cut a stream that is silent for 60 s.",
                advice="Set --heartbeat-seconds to 15.",
            )
        return ok(f"A silent stream gets a heartbeat after {interval:.1f} s.")
    if stream.ended is not None:
        last = stream.arrivals[-1][0] if stream.arrivals else stream.sent_at
        seconds = stream.ended_at - last
        found = owner(seconds, site.hops)
        return error(
            f"A silent stream was cut after {seconds:.1f} s, before its first heartbeat. {found.why}",
            found.hop,
        )
    if not stream.arrivals:
        raise NothingArrived("Neither the beginning of a stream nor a heartbeat arrived.")
    return info(
        f"No heartbeat arrived within {site.target.idle_seconds:g} s. Watch for longer (--long), or look at --heartbeat-seconds."
    )
