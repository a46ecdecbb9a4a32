"""A free port for a server that can't be given port 0."""

from __future__ import annotations

import socket

from tests.support.http import HOST


def free_port() -> int:
    """A port that the kernel chose, and that it gives to no other program for a minute.

    A connection to the port was closed on the server's side, so the port is in TIME_WAIT: only a server that asks for
    this very port gets it (with SO_REUSEADDR, which servers set).
    """
    with socket.create_server((HOST, 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            accepted, _ = listener.accept()
            accepted.close()
        return int(address[1])
