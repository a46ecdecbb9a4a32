"""Whether a hop cuts a streamed body after a time, although its lines keep coming: then token streams never reach their end."""

from __future__ import annotations

import asyncio

from broker.doctor.finding import Verdict, error, info, ok
from broker.doctor.site import RETAIN, RequestFailed, Site
from broker.doctor.timeouts import Limits, owner
from broker.doctor.wire import Exchange

LINE = b'{"data": "x"}\n'
EVERY_SECONDS = 1.0
ANSWER_SECONDS = 3.0
_HEADERS = {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}


async def check(site: Site) -> Verdict:
    clock = asyncio.get_running_loop().time
    deadline = clock() + site.target.idle_seconds
    query = {"retain": RETAIN} if site.may_retain else {}
    async with site.open("POST", f"/topics/{site.topic('body')}", query, _HEADERS) as body:
        while body.ended is None and not body.has_head and clock() < deadline:
            await body.send(b"%x\r\n%b\r\n" % (len(LINE), LINE))
            await body.wait(lambda: body.has_head, EVERY_SECONDS)
        seconds = clock() - body.sent_at
        if body.ended is None and not body.has_head:
            await body.send(b"0\r\n\r\n")
            await body.wait(lambda: body.ended is not None, ANSWER_SECONDS)
            if body.status == 200:
                return ok(f"A streamed body with a line each second stayed open for {seconds:.0f} s.")
        await body.wait(lambda: body.ended is not None, ANSWER_SECONDS)
        return _verdict(site, body, seconds)


def _verdict(site: Site, body: Exchange, seconds: float) -> Verdict:
    if body.status and "application/problem+json" in body.headers.get("Content-Type", ""):
        if b'"unavailable"' in body.body:
            return info(
                "The broker ended the streamed body itself: it restarts, or its store is unreachable."
            )
        raise RequestFailed(
            f"a streamed body was answered with {body.status} {body.body.decode(errors='replace')}"
        )
    if body.ended is None and not body.status:
        raise RequestFailed(f"a streamed body of {seconds:.0f} s got no answer after its end")
    found = owner(seconds, site.hops, Limits.BODY)
    how = f"answered with {body.status}" if body.status else "cut"
    return error(
        f"A streamed body was {how} after {seconds:.1f} s, although it had a line each second. {found.why}",
        found.hop,
    )
