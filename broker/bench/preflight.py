"""What has to be done by hand before the load: is it there, is it SSE, publish a little, learn an event's id.

Rules: blocking sockets, a timeout on everything, every failure a BenchError of one line. Nothing here is measured.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing

from broker.bench import marks
from broker.bench.answers import answer_end, error_text, is_event_stream, is_success, status_line
from broker.bench.plan import BenchError, Target

SECONDS = 10.0
SIDE_BY_SIDE = 32


def connect(at: Target) -> socket.socket:
    """A connection to the server. Raises BenchError if there is none to be had."""
    try:
        return socket.create_connection((at.host, at.port), SECONDS)
    except OSError as error:
        raise BenchError(f"{at.where()}: cannot connect: {error_text(error)}") from None


def receive(sock: socket.socket, at: Target) -> bytes:
    """The next bytes; empty if the server has closed."""
    try:
        return sock.recv(65536)
    except TimeoutError:
        raise BenchError(f"{at.where()}: no answer within {SECONDS:.0f} s") from None
    except OSError as error:
        raise BenchError(f"{at.where()}: {error_text(error)}") from None


def subscribe(at: Target, topic: int) -> tuple[socket.socket, bytes]:
    """A subscriber's socket and what came behind the head. Raises BenchError if the answer is no event stream."""
    sock = connect(at)
    sock.sendall(at.head("GET", topic, "Accept: text/event-stream"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = receive(sock, at)
        answer += part
        if not part:
            break
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not is_event_stream(head):
        sock.close()
        said = status_line(head) if head.startswith(b"HTTP/") else "no HTTP answer"
        raise BenchError(f"{at.where(topic)}: not an event stream: {said}{content_type(head)}")
    return sock, rest


def content_type(head: bytes) -> str:
    """The content type, put so that it can follow a status."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            return f", {value.strip().decode('latin-1')}"
    return ""


def check_stream(at: Target) -> None:
    """Raise BenchError unless a subscriber would be served."""
    sock, _ = subscribe(at, 0)
    sock.close()


def publish(at: Target, size: int, topics: Iterable[int]) -> None:
    """Publish one unstamped event to each of `topics`, a few side by side. Raises BenchError if one is not answered 2xx."""
    body = marks.data(size, 0)
    more = ("Content-Type: text/plain", f"Content-Length: {size}")
    sockets = [connect(at) for _ in range(SIDE_BY_SIDE)]
    numbers = iter(topics)
    try:
        while batch := list(zip(sockets, numbers, strict=False)):
            for sock, topic in batch:
                sock.sendall(at.head("POST", topic, *more) + body)
            for sock, topic in batch:
                check_published(sock, at, topic)
    finally:
        for sock in sockets:
            sock.close()


def check_published(sock: socket.socket, at: Target, topic: int) -> None:
    """Read one answer to a POST."""
    answer = b""
    while not answer_end(answer):
        part = receive(sock, at)
        answer += part
        if not part:
            break
    if not is_success(answer):
        raise BenchError(
            f"{at.where(topic)}: publishing is answered {status_line(answer) or 'with a closed connection'}"
        )


def cursor(at: Target, to: Target, size: int, topic: int) -> str:
    """Publish one event and return the id under which a subscriber gets it. Raises BenchError if it has none."""
    sock, rest = subscribe(at, topic)
    with closing(sock):
        publish(to, size, (topic,))
        for event in events(sock, at, rest):
            if marks.MARK not in event:
                continue
            for line in event.splitlines():
                if line.startswith(b"id:"):
                    return line[3:].strip().decode("latin-1")
            break
    raise BenchError(f"{at.where(topic)}: its events have no id, so nobody can reconnect by it")


def events(sock: socket.socket, at: Target, rest: bytes) -> Iterator[bytes]:
    """The events of a stream, raw, until the server closes."""
    while True:
        *whole, rest = rest.replace(b"\r\n", b"\n").split(b"\n\n")
        yield from whole
        part = receive(sock, at)
        if not part:
            return
        rest += part
