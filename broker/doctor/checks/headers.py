"""Whether the headers arrive that control how browsers and further proxies treat a stream."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, ok, warning
from broker.doctor.site import NothingArrived, Site

SECONDS = 5.0


async def check(site: Site) -> Verdict:
    async with site.stream(site.topic("headers")) as stream:
        if not await stream.wait(lambda: stream.has_head, SECONDS):
            raise NothingArrived("The head of a stream did not arrive.")
        content_type = stream.headers.get("Content-Type", "")
        control = stream.headers.get("Cache-Control", "").lower()
    if content_type.partition(";")[0].strip().lower() != "text/event-stream":
        return error(
            f"A stream arrives with Content-Type {content_type or 'missing'}: an EventSource then gives up for good.",
            site.hop,
        )
    missing = [word for word in ("no-cache", "no-transform") if word not in control]
    if missing:
        return warning(
            f"The Cache-Control of a stream lacks {' and '.join(missing)}: caches and compressors further on may hold it.",
            site.hop,
        )
    return ok("Content-Type and Cache-Control of a stream arrive unchanged.")
