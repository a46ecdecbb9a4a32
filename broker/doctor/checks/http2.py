"""Whether browsers get HTTP/2; over HTTP/1.1 they open six connections per host."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from broker.client.errors import reason
from broker.doctor import wire
from broker.doctor.finding import Verdict, ok, warning
from broker.doctor.site import RequestFailed, Site

_LIMIT = "a browser opens six connections per host for all its tabs, and each stream takes one"


async def check(site: Site) -> Verdict:
    if urlsplit(site.target.url).scheme != "https":
        return warning(f"By plain HTTP, browsers speak HTTP/1.1: {_LIMIT}.")
    context = ssl.create_default_context(cafile=site.target.ca_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        _, writer = await wire.connect(site.target.url, context)
    except OSError as failure:
        raise RequestFailed(reason(failure)) from None
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    if chosen == "h2":
        return ok("HTTP/2 is offered: all streams of a browser share one connection.")
    return warning(f"HTTP/2 is not offered (ALPN): {_LIMIT}.", site.hop)
