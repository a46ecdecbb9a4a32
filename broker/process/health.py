"""The health check of the image: `python -m broker.process.health` exits 0 if the broker of this container answers `/healthz`.

With the argument `ready` it asks `/readyz`: a broker that drains or lacks its store isn't ready.

Rules: the standard library only, since it runs every few seconds. It reads the variables that place the broker, not its flags.
TLS may be set by a flag, so it asks by HTTP, then by HTTPS. The certificate isn't verified: it is for another name, and the
connection stays in the container.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping

DEFAULT_PORT = 8080
SECONDS = 2.0
"""For each attempt."""
_LOOPBACK = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a broker on all addresses is asked


def connections(variables: Mapping[str, str]) -> Iterator[http.client.HTTPConnection]:
    """What to ask, in this order. Ignores a port that Kubernetes has set (see `settings.environment`)."""
    unix_socket = variables.get("BROKER_UNIX_SOCKET")
    if unix_socket:
        yield _UnixConnection(unix_socket)
    if variables.get("BROKER_PORT", "").lower() == "none":
        return
    host, port = address(variables)
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    yield http.client.HTTPConnection(host, port, timeout=SECONDS)
    yield http.client.HTTPSConnection(host, port, timeout=SECONDS, context=unverified)


def address(variables: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the broker: of several hosts the first."""
    host, port = variables.get("BROKER_HOST", "").split(",")[0].strip(), variables.get("BROKER_PORT", "")
    is_number = port.isascii() and port.isdigit()
    return _LOOPBACK.get(host, host), int(port) if is_number else DEFAULT_PORT


def is_healthy(variables: Mapping[str, str], path: str = "/healthz") -> bool:
    """Whether the broker of this environment answers 200 at `path`."""
    return any(_answers(connection, path) for connection in connections(variables))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def _answers(connection: http.client.HTTPConnection, path: str) -> bool:
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(os.environ, "/readyz" if sys.argv[1:] == ["ready"] else "/healthz"))
