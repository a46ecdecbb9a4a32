"""Whether pages of another origin may use the broker: the preflight, and the headers of a stream."""

from __future__ import annotations

from collections.abc import Sequence

from multidict import CIMultiDict

from broker.doctor.finding import Verdict, error, info, ok
from broker.doctor.site import Reply, Site

ALLOW_ORIGIN = "Access-Control-Allow-Origin"
HEADERS = ("authorization", "content-type", "last-event-id")
SECONDS = 5.0


async def check(site: Site) -> Verdict:
    origin = site.target.origin
    if origin is None:
        return info("Pages of other origins were not tried; name the origin of yours with --origin.")
    topic = site.topic("cors")
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ", ".join(HEADERS),
    }
    preflight = await site.request("OPTIONS", f"/topics/{topic}", headers=asked, with_token=False)
    if preflight.code == "forbidden":
        return error(
            f"The broker doesn't allow pages of {origin}.",
            advice=f"Add {origin} to the broker's --cors-origins.",
        )
    fault = _preflight_fault(preflight, origin)
    if fault:
        return error(f"The preflight (OPTIONS) of a page of {origin} {fault}.", site.hop)
    async with site.stream(topic, headers={"Origin": origin}) as stream:
        await stream.wait(lambda: stream.has_head, SECONDS)
        fault = _origin_fault(stream.headers, origin)
        if fault:
            return error(f"A stream for a page of {origin} {fault}.", site.hop)
        with_cookies = stream.headers.get("Access-Control-Allow-Credentials", "") == "true"
    cookies = "with cookies" if with_cookies else "without cookies"
    return ok(f"Pages of {origin} may use the broker, {cookies}.")


def _preflight_fault(preflight: Reply, origin: str) -> str:
    if not 200 <= preflight.status < 300:
        return f"was answered with {preflight.status}, so browsers refuse to publish and to reconnect"
    allowed = preflight.headers.get("Access-Control-Allow-Headers", "").lower()
    missing = [name for name in HEADERS if name not in allowed]
    if missing:
        return f"doesn't allow the headers {', '.join(missing)}"
    return _origin_fault(preflight.headers, origin)


def _origin_fault(headers: CIMultiDict[str], origin: str) -> str:
    values: Sequence[str] = headers.getall(ALLOW_ORIGIN, [])
    if not values:
        return f"has no {ALLOW_ORIGIN}: a hop removes it, or the broker doesn't allow the origin"
    if len(values) > 1 or "," in values[0]:
        return f"has {ALLOW_ORIGIN} twice ({', '.join(values)}): a hop adds its own, and browsers then refuse"
    return "" if values[0] in (origin, "*") else f"has {ALLOW_ORIGIN}: {values[0]}"
