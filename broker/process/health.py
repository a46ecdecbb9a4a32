"""The health check of the image: `python -m broker.process.health` exits 0 if the broker of this container answers `/healthz`.

Rules: the standard library only, since it runs every few seconds. It reads the variables that place the broker, not its flags.
TLS may be set by a flag, so it asks by HTTP, then by HTTPS. The certificate isn't verified: it is for another name, and the
connection stays in the container.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

DEFAULT_PORT = 8080
SECONDS = 2.0
"""For each attempt."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a broker on all addresses is asked


def address(variables: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the broker. Ignores a port that Kubernetes has set (see `settings.environment`)."""
    host, port = variables.get("BROKER_HOST", ""), variables.get("BROKER_PORT", "")
    is_number = port.isascii() and port.isdigit()
    return _LOOPBACK.get(host, host), int(port) if is_number else DEFAULT_PORT


def is_healthy(host: str, port: int) -> bool:
    """Whether a broker answers there, by HTTP or HTTPS."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    plain = http.client.HTTPConnection(host, port, timeout=SECONDS)
    secure = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=unverified)
    return _answers(plain) or _answers(secure)


def _answers(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(*address(os.environ)))
