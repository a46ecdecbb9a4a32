"""Which certificates are trusted."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from broker.doctor.site import Target


def trust(target: Target) -> ssl.SSLContext | None:
    """The context for https; None for http.

    Raises:
        OSError: `ca_file` can't be read, or has no certificate.
    """
    if urlsplit(target.url).scheme != "https":
        return None
    return ssl.create_default_context(cafile=target.ca_file)
