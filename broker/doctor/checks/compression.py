"""Whether a hop compresses streams, and whether that holds events back."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, ok, warning
from broker.doctor.site import NothingArrived, Site

ACCEPTED = "gzip, deflate, br, zstd"
READABLE = ("identity", "gzip", "deflate")
HEAD_SECONDS = 5.0
EVENT_SECONDS = 3.0


async def check(site: Site) -> Verdict:
    topic = site.topic("compression")
    async with site.stream(topic, headers={"Accept-Encoding": ACCEPTED}) as stream:
        await stream.wait(lambda: stream.arrivals, HEAD_SECONDS)
        before = len(stream.arrivals)
        await site.publish_id(topic)
        await stream.wait(lambda: stream.has_head, EVENT_SECONDS)
        encoding = stream.headers.get("Content-Encoding", "identity").lower()
        readable = encoding in READABLE
        arrived = await stream.wait(
            lambda: stream.published() if readable else len(stream.arrivals) > before, EVENT_SECONDS
        )
    if encoding == "identity":
        if arrived:
            return ok("A stream for a client that takes compressed answers is not compressed.")
        raise NothingArrived("A stream is not compressed, but its event did not arrive.")
    if not arrived:
        return error(
            f"A stream is compressed with {encoding}, and an event did not arrive within {EVENT_SECONDS:g} s: the compression "
            "holds it back.",
            site.hop,
        )
    return warning(
        f"A stream is compressed with {encoding}, although its Cache-Control says no-transform. Events arrive, each flushed; "
        "with other settings the compression would hold them.",
        site.hop,
    )
