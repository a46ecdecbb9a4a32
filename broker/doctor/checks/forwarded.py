"""Whether the client's address and the scheme reach the broker, which can be seen only with the admin right."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from broker.doctor.finding import Verdict, info, ok, warning
from broker.doctor.site import POSTS, Site


async def check(site: Site) -> Verdict:
    if not await _scheme_arrives(site):
        return warning(
            "The broker takes a plain-HTTP page for its own: no hop says that this URL is https.",
            site.hop,
        )
    reply = await site.request("GET", "/admin/request")
    if reply.status != 200:
        return info(f"Checking the forwarded headers needs a token with admin ({reply.status} {reply.code}).")
    seen = reply.json()
    headers = seen.get("headers")
    return _address(site, seen, headers if isinstance(headers, dict) else {})


async def _scheme_arrives(site: Site) -> bool:
    """Whether the broker knows that the URL is https; True for http.

    It then refuses a page of the same host by plain HTTP (`guard`).
    """
    parts = urlsplit(site.target.url)
    if parts.scheme != "https":
        return True
    reply = await site.publish(site.topic(POSTS), headers={"Origin": f"http://{parts.netloc}"})
    return reply.status != 201 or "Access-Control-Allow-Origin" in reply.headers


def _address(site: Site, seen: dict[str, Any], headers: dict[str, Any]) -> Verdict:
    peer, address = seen.get("peer"), seen.get("address")
    forwarded = {name: headers[name] for name in ("x-forwarded-for", "forwarded") if name in headers}
    named = ", ".join(f"{name}: {value}" for name, value in forwarded.items())
    if not forwarded:
        if site.hops:
            return warning(
                "No hop forwards the client's address: limits by address take all clients for one.", site.hop
            )
        return ok("No proxy was recognised, and none forwards an address.")
    if address is not None and address == peer:
        return warning(
            f"The broker gets {named}, but does not trust the proxy at {peer}: limits by address take all clients for one.",
            advice=f"Add {peer} to --trusted-proxies, and name the header with --forwarded-header.",
        )
    if address is None:
        return ok(f"The broker gets {named}; no limit uses it.")
    return ok(f"The broker gets {named}, and takes {address} for the client.")
