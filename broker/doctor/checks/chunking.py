"""Whether a stream arrives in chunks, so that clients can distinguish its end from a cut."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, ok, warning
from broker.doctor.site import NothingArrived, Site
from broker.doctor.wire import LAST_CHUNK

SECONDS = 3.0


async def check(site: Site) -> Verdict:
    topic = site.topic("chunking")
    async with site.stream(topic) as stream:
        await stream.wait(lambda: stream.arrivals, SECONDS)
        await site.publish_id(topic)
        await stream.wait(stream.published, SECONDS)
        await site.publish(topic, "", {"end": "true"})
        await stream.wait(lambda: stream.ended is not None, SECONDS)
        if not stream.has_head:
            raise NothingArrived("The head of a stream did not arrive.")
        if "Content-Length" in stream.headers:
            length = stream.headers["Content-Length"]
            return error(f"A stream has a Content-Length of {length}: a hop collects it whole.", site.hop)
        coding = stream.headers.get("Transfer-Encoding", "").lower()
        if "chunked" not in coding:
            return warning(
                f"A stream comes over HTTP/{stream.version} without chunks. Clients that read by chunk, such as Python's "
                "requests, get events late, and no client can distinguish the end of a stream from a cut.",
                site.hop,
            )
        if await _is_http_1_0(site, topic):
            return warning(
                "A hop speaks HTTP/1.0 to the broker, which has no chunks: a stream that is cut there looks like one that ended, "
                "and the broker refuses streams with control=none.",
                site.hop,
            )
        if stream.ended == LAST_CHUNK:
            return ok(
                f"A stream comes in chunks: {len(stream.chunks)} for its parts, and the last one at its end."
            )
        return warning(
            "A topic ended, but its stream did not end with the last chunk: clients take the end for a cut.",
            site.hop,
        )


async def _is_http_1_0(site: Site, topic: str) -> bool:
    """Whether the broker gets requests over HTTP/1.0, on which it refuses `control=none`."""
    reply = await site.request("GET", f"/topics/{topic}", {"control": "none", "lastEventId": "unknown"})
    return reply.code == "invalid-parameter" and "HTTP/1.1" in reply.detail
