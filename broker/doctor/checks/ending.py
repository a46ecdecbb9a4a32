"""Whether a browser learns that a topic has ended: 204 stops its EventSource, anything else makes it come back for ever."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, ok
from broker.doctor.site import NothingArrived, Site

SECONDS = 5.0


async def check(site: Site) -> Verdict:
    topic = site.topic("ending")
    await site.publish_id(topic, "last", {"end": "true"})
    async with site.stream(topic, {"since": "earliest"}) as stream:
        await stream.wait(lambda: stream.control("broker.end"), SECONDS)
        end = stream.control("broker.end")
    if end is None:
        raise NothingArrived("The end of a topic did not arrive.")
    async with site.stream(topic, {"lastEventId": end.id}) as stream:
        await stream.wait(lambda: stream.has_head, SECONDS)
        if stream.status == 204:
            return ok(
                "A reconnect to a topic that has ended is answered with 204, which stops an EventSource."
            )
        return error(
            f"A reconnect to a topic that has ended is answered with {stream.status or 'nothing'} instead of 204: every "
            "browser that watched it comes back for ever.",
            site.hop,
        )
