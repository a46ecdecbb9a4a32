"""Crowds of good and bad readers that are cheap enough for a thousand of them on two cores.

All readers that are up to date are sent the same bytes. So one of them, the reference, is decoded and checked, and the
others are compared with it, byte for byte. The bad readers run in a process of their own, to slow down nothing else.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Self

from broker.sse import HEARTBEAT
from tests.support.event_stream import READ_BYTES, Stream
from tests.support.waiting import WAIT_SECONDS

SMALL_BUFFER_BYTES = 2048
"""SO_RCVBUF of bad readers: small, so that unread bytes stay in the broker's memory, which is measured."""
TICK_SECONDS = 0.1
GRACE_SECONDS = WAIT_SECONDS


def silent(port: int, topic: str, *, receive_buffer: int | None = None) -> Stream:
    """A stream of which only `broker.open` has come, and was read."""
    stream = Stream(port, f"/topics/{topic}", receive_buffer=receive_buffer).opened()
    assert len(stream.events) == 1, "published too early"
    assert stream.body.endswith(b"\n\n"), "published too early"
    return stream


def without_heartbeats(data: bytes) -> tuple[bytes, bytes]:
    """The data but its heartbeats, and the first byte of one that isn't complete. No event here has a line that ends with a colon."""
    begun = data[-1:] if HEARTBEAT.startswith(data[-1:]) else b""
    return data.removesuffix(begun).replace(HEARTBEAT, b""), begun


class GoodReaders:
    """Readers that read everything at once; a context manager."""

    def __init__(self, port: int, topic: str, count: int) -> None:
        self._reference = silent(port, topic)
        self._read_bytes = len(self._reference.body)
        self._begun = b""  # a heartbeat, of the reference
        self._body = bytearray()  # of the reference, behind its first event, without heartbeats
        self._others = [silent(port, topic) for _ in range(count - 1)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._reference, *self._others):
            stream.socket.close()

    @property
    def body(self) -> bytes:
        """What each was sent after its first event, without heartbeats."""
        return bytes(self._body)

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self._reference.published()]

    @property
    def data(self) -> list[str]:
        return [event.data for event in self._reference.published()]

    def catch_up(self, count: int) -> None:
        """Read until all have `count` events; fail if the bytes of one differ from the reference's."""
        offset = len(self._body)
        self._reference.wait_for_events(1 + count)
        more, self._begun = without_heartbeats(self._begun + self._reference.body[self._read_bytes :])
        self._read_bytes = len(self._reference.body)
        self._body += more
        for stream in self._others:
            self._read_on(stream, offset)

    def _read_on(self, stream: Stream, at: int) -> None:
        """Read what this one lacks: all from the byte `at` of the body on."""
        body = self._body
        begun = b""
        # Between chunks: two bytes left unread would keep a whole buffer.
        while at < len(body) or begun or not stream.is_between_chunks:
            received = stream.socket.recv(min(READ_BYTES, max(2, len(body) - at)))
            assert received, f"a good reader was cut off at byte {at} of {len(body)}"
            data = begun + stream.unframed(received)
            begun = b""
            if not body.startswith(data, at):
                data, begun = without_heartbeats(data)
            assert body.startswith(data, at), f"a good reader was sent something else at byte {at}"
            at += len(data)


@dataclass(frozen=True)
class BadReading:
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

    def is_prefix_of(self, body: bytes) -> bool:
        return hashlib.sha256(memoryview(body)[: self.size]).digest() == self.digest


class BadReaders:
    """`stuck` readers that read nothing and `slow` ones that read `bytes_per_second`, in a process of their own."""

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

    def read_to_the_end(self) -> tuple[list[BadReading], list[BadReading]]:
        """Let all read as fast as they can until they are cut off; returns the bytes that the stuck and the slow ones got in all."""
        self._pipe.send("hurry")
        readings = self._receive()
        assert isinstance(readings, list)
        return readings[: self._stuck], readings[self._stuck :]

    def _receive(self) -> object:
        assert self._pipe.poll(2 * GRACE_SECONDS), "the bad readers don't answer"
        return self._pipe.recv()


def _read_badly(pipe: Pipe, port: int, topic: str, stuck: int, slow: int, bytes_per_second: int) -> None:
    readers = [_Reader(silent(port, topic, receive_buffer=SMALL_BUFFER_BYTES)) for _ in range(stuck + slow)]
    pipe.send("ready")
    share = max(1, int(bytes_per_second * TICK_SECONDS))
    while not pipe.poll(TICK_SECONDS):
        for reader in readers[stuck:]:
            reader.read(share)
    pipe.recv()
    _read_to_the_end(readers)
    pipe.send([reader.reading() for reader in readers])


class _Reader:
    """One bad reader; see `BadReading`."""

    def __init__(self, stream: Stream) -> None:
        stream.socket.setblocking(False)
        self.socket = stream.socket
        self._stream = stream
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
        self._received += self._stream.unframed(data)
        if not data:
            self.ended = "end"

    def reading(self) -> BadReading:
        received = self._received
        whole = not received or received.endswith(b"\n\n")
        return BadReading(len(received), hashlib.sha256(received).digest(), whole, self.ended)


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
