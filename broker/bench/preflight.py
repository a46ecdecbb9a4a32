"""Checks before the load: does the server respond, stream SSE and accept events? Publishes first events, finds event ids.

Rules: blocking sockets, each call with a time limit; every failure is a BenchError of one line. Nothing here is measured.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing

from broker.bench import stamps
from broker.bench.plan import BenchError, Target
from broker.bench.responses import error_text, is_event_stream, is_success, response_end, status_line

TIMEOUT_SECONDS = 10.0
PARALLEL = 32


def connect(target: Target) -> socket.socket:
    """Connect to the server. Raises BenchError."""
    try:
        return socket.create_connection((target.host, target.port), TIMEOUT_SECONDS)
    except OSError as error:
        raise BenchError(f"{target.url()}: cannot connect: {error_text(error)}") from None


def receive(sock: socket.socket, target: Target) -> bytes:
    """The next bytes; empty if the server has closed the connection. Raises BenchError."""
    try:
        return sock.recv(65536)
    except TimeoutError:
        raise BenchError(f"{target.url()}: no response within {TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise BenchError(f"{target.url()}: {error_text(error)}") from None


def subscribe(target: Target, topic: int) -> tuple[socket.socket, bytes]:
    """Subscribe; return the socket and the bytes after the head. Raises BenchError if the response is not an event stream."""
    sock = connect(target)
    sock.sendall(target.head("GET", topic, "Accept: text/event-stream"))
    response = b""
    while b"\r\n\r\n" not in response:
        data = receive(sock, target)
        response += data
        if not data:
            break
    head, _, rest = response.partition(b"\r\n\r\n")
    if not is_event_stream(head):
        sock.close()
        status = status_line(head) if head.startswith(b"HTTP/") else "no HTTP response"
        raise BenchError(f"{target.url(topic)}: not an event stream: {status}{content_type(head)}")
    return sock, rest


def content_type(head: bytes) -> str:
    """`, ` and the content type, for an error text; empty if the head names none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            return f", {value.strip().decode('latin-1')}"
    return ""


def check_stream(target: Target) -> None:
    """Raise BenchError if the server does not accept a subscriber."""
    sock, _ = subscribe(target, 0)
    sock.close()


def publish(target: Target, size: int, topics: Iterable[int]) -> None:
    """Publish one event without a time stamp to each of `topics`. Raises BenchError if a status is not 2xx."""
    body = stamps.data(size, 0)
    sockets = [connect(target) for _ in range(PARALLEL)]
    numbers = iter(topics)
    try:
        while batch := list(zip(sockets, numbers, strict=False)):
            for sock, topic in batch:
                before, after = target.post(topic, size)
                sock.sendall(before + body + after)
            for sock, topic in batch:
                check_published(sock, target, topic)
    finally:
        for sock in sockets:
            sock.close()


def check_published(sock: socket.socket, target: Target, topic: int) -> None:
    """Read the response to one POST. Raises BenchError if its status is not 2xx."""
    response = b""
    while not response_end(response):
        data = receive(sock, target)
        response += data
        if not data:
            break
    if not is_success(response):
        raise BenchError(
            f"{target.url(topic)}: the response to publishing is {status_line(response) or 'a closed connection'}"
        )


def find_cursor(target: Target, publish_target: Target, size: int, topic: int) -> str:
    """Publish one event and return the id with which a subscriber gets it. Raises BenchError if it has no id."""
    sock, rest = subscribe(target, topic)
    with closing(sock):
        publish(publish_target, size, (topic,))
        for event in events(sock, target, rest):
            if stamps.MARK not in event:
                continue
            for line in event.splitlines():
                if line.startswith(b"id:"):
                    return line[3:].strip().decode("latin-1")
            break
    raise BenchError(
        f"{target.url(topic)}: its events have no ids, so subscribers cannot reconnect after one"
    )


def events(sock: socket.socket, target: Target, rest: bytes) -> Iterator[bytes]:
    """The undecoded events of a stream, until the server closes it."""
    while True:
        *complete, rest = rest.replace(b"\r\n", b"\n").split(b"\n\n")
        yield from complete
        data = receive(sock, target)
        if not data:
            return
        rest += data
