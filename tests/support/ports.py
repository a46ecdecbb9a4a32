"""Free ports for servers that can't be given port 0."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from tests.support.http import HOST


def free_port(count: int = 1) -> int:
    """The first of `count` consecutive ports that the kernel gives to no other program for a minute.

    A connection to each was closed on the server's side, so they are in TIME_WAIT: only a server that asks for this very
    port gets it (with SO_REUSEADDR, which servers set).
    """
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server((HOST, 0)))
            port = int(first.getsockname()[1])
            further = range(port + 1, port + count)
            try:
                listeners = [
                    first,
                    *(stack.enter_context(socket.create_server((HOST, port))) for port in further),
                ]
            except OSError:  # another program has one
                continue
            for listener in listeners:
                with socket.create_connection(listener.getsockname()):
                    accepted, _ = listener.accept()
                    accepted.close()
            return port
