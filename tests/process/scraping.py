"""Scrape a broker although some of its workers may not answer."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack

from tests.support.http import request
from tests.support.waiting import WAIT_SECONDS


def first_answer(*ports: int) -> str:
    """The metrics of all workers, from the first of the ports that answers."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS))
            for port in ports
        ]
        for connection in connections:
            connection.sendall(request("GET", "/metrics?workers=all", "Connection: close"))
        (answering, *_), _, _ = select.select(connections, (), (), WAIT_SECONDS)
        data = b""
        while more := answering.recv(1 << 16):
            data += more
        return data.partition(b"\r\n\r\n")[2].decode()
