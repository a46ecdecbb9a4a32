"""Raw subscribers, and settings that make clients reconnect soon."""

from __future__ import annotations

import socket

from tests.support.broker_process import BrokerProcess

FAST_RECONNECTS = {"retry_min_ms": 10, "retry_max_ms": 50, "drain_seconds": 0.5}


def subscribe(broker: BrokerProcess, topic: str = "news") -> socket.socket:
    """A subscriber that has received the head and `broker.open`."""
    connection = socket.create_connection(("127.0.0.1", broker.port), timeout=20)
    connection.sendall(
        f"GET /topics/{topic} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    data = b""
    while b"broker.open" not in data:
        data += connection.recv(65536)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """The bytes until the stream ends; closes the connection."""
    data = b""
    while more := connection.recv(65536):
        data += more
    connection.close()
    return data
