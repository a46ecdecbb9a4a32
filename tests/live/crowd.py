"""Crowds of readers, good and bad, cheap enough that a thousand of them fit beside the broker on two cores.

All readers that are up to date are sent the same bytes. So one of them, the reference, is decoded and checked, and the
others are compared with it, byte for byte. The bad ones live in a process of their own, so that their slowness is theirs.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Self

from broker.events import Event
from broker.sse import Decoder
from tests.support.http import HOST
from tests.support.waiting import WAIT_SECONDS

READ_BYTES = 1 << 18
SMALL_BUFFER_BYTES = 2048
"""SO_RCVBUF of bad readers: so that what they don't read stays with the broker, whose memory is what is looked at."""
TICK_SECONDS = 0.1
GRACE_SECONDS = 30


def opened(port: int, target: str, *, receive_buffer: int | None = None) -> tuple[socket.socket, bytes]:
    """A stream, and what came of its body up to the end of its first event, or beyond."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(WAIT_SECONDS)
    sock.connect((HOST, port))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    received = b""
    while b"\n\n" not in received:
        data = sock.recv(4096)
        assert data, received
        received += data
    assert received.startswith(b"HTTP/1.1 200 "), received
    return sock, received.partition(b"\r\n\r\n")[2]


def silent(port: int, topic: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A stream of which only `broker.open` came, and was read."""
    sock, body = opened(port, f"/topics/{topic}", receive_buffer=receive_buffer)
    assert body.endswith(b"\n\n"), "published too early"
    assert body.count(b"\n\n") == 1, "published too early"
    return sock


class Stream:
    """One stream, decoded as it is read; a context manager.

    Attributes:
        events: all that came so far.
    """

    def __init__(self, port: int, target: str, *, receive_buffer: int | None = None) -> None:
        self.socket, body = opened(port, target, receive_buffer=receive_buffer)
        self._decoder = Decoder()
        self.events = self._decoder.feed(body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read(self, most: int = READ_BYTES) -> bytes:
        """Read once; empty at the end."""
        data = self.socket.recv(most)
        self.events += self._decoder.feed(data)
        return data

    def until(self, count: int) -> list[Event]:
        """Read on until there are `count` events, and return them."""
        while len(self.events) < count:
            assert self.read(), f"ended after {len(self.events)} of {count} events"
        return self.events


class GoodReaders:
    """Readers who read all there is; a context manager.

    Attributes:
        stream: what each was sent after its first event, as far as all of them have it.
        ids, data: of the events in `stream`.
    """

    def __init__(self, port: int, topic: str, count: int) -> None:
        self.stream = bytearray()
        self.ids: list[str] = []
        self.data: list[str] = []
        self._decoder = Decoder()
        self._reference = silent(port, topic)
        self._others = [silent(port, topic) for _ in range(count - 1)]
        self._offset = 0  # what the others have

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._reference, *self._others):
            sock.close()

    def catch_up(self, count: int) -> None:
        """Read until all have `count` events; fail if anybody's differ from the reference's."""
        while len(self.ids) < count:
            data = self._reference.recv(READ_BYTES)
            assert data, "the reference was cut off"
            self.stream += data
            for event in self._decoder.feed(data):
                self.ids.append(event.id)
                self.data.append(event.data)
        end = len(self.stream)
        for sock in self._others:
            at = self._offset
            while at < end:
                data = sock.recv(min(READ_BYTES, end - at))
                assert data, f"a good reader was cut off at byte {at} of {end}"
                assert self.stream.startswith(data, at), f"a good reader was sent something else at byte {at}"
                at += len(data)
        self._offset = end


@dataclass(frozen=True)
class Gauge:
    """What a bad reader got after its first event.

    Attributes:
        size, digest: of the bytes (SHA-256).
        whole: whether they end with an event.
        ended: how its connection ended: `end`, `reset`, or `open` if it hadn't.
    """

    size: int
    digest: bytes
    whole: bool
    ended: str

    def is_prefix_of(self, stream: bytes | bytearray) -> bool:
        return hashlib.sha256(memoryview(stream)[: self.size]).digest() == self.digest


class BadReaders:
    """`stuck` readers who read nothing and `slow` ones who read `bytes_per_second`, in a process of their own."""

    def __init__(self, port: int, topic: str, *, stuck: int, slow: int, bytes_per_second: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_read_badly, args=(theirs, port, topic, stuck, slow, bytes_per_second), daemon=True
        )
        self._stuck = stuck

    def __enter__(self) -> Self:
        self._process.start()
        assert self._receive() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join(WAIT_SECONDS)
        self._process.close()
        self._pipe.close()

    def read_to_the_end(self) -> tuple[list[Gauge], list[Gauge]]:
        """Let all read as fast as they can until they are cut off; what the stuck and the slow ones got in all."""
        self._pipe.send("hurry")
        gauges = self._receive()
        assert isinstance(gauges, list)
        return gauges[: self._stuck], gauges[self._stuck :]

    def _receive(self) -> object:
        assert self._pipe.poll(2 * GRACE_SECONDS), "the bad readers don't answer"
        return self._pipe.recv()


def _read_badly(pipe: Pipe, port: int, topic: str, stuck: int, slow: int, bytes_per_second: int) -> None:
    socks = [silent(port, topic, receive_buffer=SMALL_BUFFER_BYTES) for _ in range(stuck + slow)]
    readers = [_Reader(sock) for sock in socks]
    pipe.send("ready")
    share = max(1, int(bytes_per_second * TICK_SECONDS))
    while not pipe.poll(TICK_SECONDS):
        for reader in readers[stuck:]:
            reader.read(share)
    pipe.recv()
    _read_to_the_end(readers)
    pipe.send([reader.reading() for reader in readers])


class _Reader:
    """One bad reader; see `Gauge`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.ended = "open"
        self._received = bytearray()

    def read(self, most: int) -> None:
        if self.ended != "open":
            return
        try:
            data = self.socket.recv(most)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.ended = "reset"
            return
        self._received += data
        if not data:
            self.ended = "end"

    def reading(self) -> Gauge:
        received = self._received
        whole = not received or received.endswith(b"\n\n")
        return Gauge(len(received), hashlib.sha256(received).digest(), whole, self.ended)


def _read_to_the_end(readers: Sequence[_Reader]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader.socket, selectors.EVENT_READ, reader)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                reader = key.data
                reader.read(READ_BYTES)
                if reader.ended != "open":
                    selector.unregister(reader.socket)
