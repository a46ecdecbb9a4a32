"""Raw subscribers, and settings that make clients reconnect soon."""

from __future__ import annotations

import socket

from tests.support.broker_process import BrokerProcess
from tests.support.http import ChunkDecoder
from tests.support.waiting import WAIT_SECONDS

FAST_RECONNECTS = {"retry_min_ms": 10, "retry_max_ms": 50, "drain_seconds": 0.5}


def subscribe(broker: BrokerProcess, topic: str = "news") -> socket.socket:
    """A subscriber that has received the head and `broker.open`, which is a chunk."""
    connection = socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT_SECONDS)
    connection.sendall(
        f"GET /topics/{topic} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    read_event(connection)
    return connection


def read_event(connection: socket.socket) -> bytes:
    """The bytes up to the end of a chunk with whole events."""
    data = b""
    while not data.endswith(b"\n\n\r\n"):
        more = connection.recv(65536)
        assert more, f"the stream ended: {data!r}"
        data += more
    return data


def read_to_end(connection: socket.socket) -> bytes:
    """The rest of the body, up to its last chunk; closes the connection."""
    decoder, data = ChunkDecoder(), b""
    while more := connection.recv(65536):
        data += decoder.feed(more)
    connection.close()
    assert decoder.is_complete
    return data
