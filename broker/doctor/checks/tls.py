"""Whether the connection is encrypted, and until when its certificate is valid."""

from __future__ import annotations

import ssl
import time
from urllib.parse import urlsplit

from broker.client.errors import reason
from broker.doctor import wire
from broker.doctor.finding import Verdict, error, info, ok, warning
from broker.doctor.site import RequestFailed, Site
from broker.hosts import is_loopback

SOON_DAYS = 14
DAY_SECONDS = 86_400


async def check(site: Site) -> Verdict:
    parts = urlsplit(site.target.url)
    if parts.scheme != "https":
        if is_loopback(parts.hostname or ""):
            return info("Plain HTTP on this machine.")
        return warning("Plain HTTP: everyone on the way can read events and tokens.")
    try:
        _, writer = await wire.connect(site.target.url, site.context)
    except OSError as failure:
        raise RequestFailed(reason(failure)) from None
    certificate, version = writer.get_extra_info("peercert"), writer.get_extra_info("ssl_object").version()
    writer.close()
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / DAY_SECONDS
    what = f"The certificate is valid for {days:.0f} more days ({version})."
    if days < 1:
        return error(f"The certificate expires within a day ({version}).")
    return warning(what) if days < SOON_DAYS else ok(what)
