"""Options of sockets, where the system has them.

Rules: no HTTP library, and no module that a system may lack.
"""

from __future__ import annotations

import contextlib
import socket

UNACKNOWLEDGED_MS = 20_000


def limit_unacknowledged(sock: socket.socket) -> None:
    """Make `sock` fail soon if the peer acknowledges nothing. The default takes many minutes."""
    with contextlib.suppress(
        OSError, AttributeError
    ):  # not on every system, and not for every kind of socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
