"""Whether a streamed body arrives line by line; a hop that collects it first breaks token streams."""

from __future__ import annotations

import asyncio
import secrets

from broker.doctor.finding import Verdict, ok, warning
from broker.doctor.site import Site
from broker.doctor.wire import LAST_CHUNK

LINE = b'{"data": "x"}\n'
SECONDS = 3.0
EVERY_SECONDS = 0.1
_HEADERS = {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}


async def check(site: Site) -> Verdict:
    topic = site.topic("request")
    async with site.open("POST", f"/topics/{topic}", headers=_HEADERS) as body:
        await body.send(b"%x\r\n%b\r\n" % (len(LINE), LINE))
        arrived = await _arrives(site, topic)
        await body.send(b"0\r\n\r\n")
        await body.wait(lambda: body.ended == LAST_CHUNK, SECONDS)
        status = body.status
    if arrived:
        return ok("A streamed body is published line by line while it is sent.")
    at_the_end = (
        "; it was published when the body ended"
        if status == 200
        else f"; the answer was {status or 'missing'}"
    )
    return warning(
        f"The first line of a streamed body was not published within {SECONDS:g} s{at_the_end}. A hop collects request bodies, "
        "so token streams arrive all at once.",
        site.hop,
    )


async def _arrives(site: Site, topic: str) -> bool:
    """Whether the topic has an event soon. Reads the history, past any cache, since a stream may be held back as well."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + SECONDS
    while clock() < deadline:
        reply = await site.request("GET", f"/topics/{topic}/events", {"_": secrets.token_hex(4)})
        if reply.json().get("events"):
            return True
        await asyncio.sleep(EVERY_SECONDS)
    return False
