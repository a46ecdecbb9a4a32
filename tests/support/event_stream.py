"""The raw SSE reader of all tests: it shows every byte of an answer and the events in it.

`EventStream` decodes and does no I/O. `Stream` reads a socket in the calling thread; `AsyncStream` reads in a loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Self

from broker.events import Event
from broker.sse import Decoder
from tests.support.http import HOST, ChunkDecoder, close, parse_head, request
from tests.support.waiting import WAIT_SECONDS

READ_BYTES = 1 << 18
ACCEPT = {"Accept": "text/event-stream"}
"""What EventSource sends."""


class EventStream:
    """One answer to a request for a stream.

    Attributes:
        status, headers: 0 and empty until the head is complete; header names are in lower case.
        body: everything after the head, without the framing of chunks.
        events: all events in `body`, the broker's own included.
        is_complete: whether the body ended as its head announced: by its length or by a last chunk.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.events: list[Event] = []
        self.is_complete = False
        self._head = b""  # while it is incomplete
        self._chunks: ChunkDecoder | None = None
        self._decoder = Decoder()

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes of the answer; returns the events that they complete."""
        if not self.status:
            head, blank_line, data = (self._head + data).partition(b"\r\n\r\n")
            if not blank_line:
                self._head = head
                return []
            self.status, self.headers = parse_head(head)
            if self.headers.get("transfer-encoding") == "chunked":
                self._chunks = ChunkDecoder()
        data = self.unframed(data)
        self.body += data
        if self.status == 204 or len(self.body) == int(self.headers.get("content-length", -1)):
            self.is_complete = True
        events = self._decoder.feed(data)
        self.events += events
        return events

    def unframed(self, data: bytes) -> bytes:
        """The next bytes behind the head, without the framing of chunks."""
        if self._chunks is None:
            return data
        data = self._chunks.feed(data)
        self.is_complete = self._chunks.is_complete
        return data

    @property
    def is_between_chunks(self) -> bool:
        """Whether the bytes read so far end with a chunk, if the body has any."""
        return self._chunks is None or self._chunks.is_between_chunks

    @property
    def retry_ms(self) -> int | None:
        """The last reconnect delay that the stream named."""
        return self._decoder.retry_ms

    def published(self) -> list[Event]:
        """The events that a client published."""
        return [event for event in self.events if not (event.type or "").startswith("broker.")]

    def gaps(self) -> list[str]:
        """The reason of each gap."""
        return [json.loads(event.data)["reason"] for event in self.events if event.type == "broker.gap"]


def subscribe_request(target: str, headers: Mapping[str, str]) -> bytes:
    return request("GET", target, *(f"{name}: {value}" for name, value in headers.items()))


class Stream(EventStream):
    """A stream on a socket of its own, opened and read by the calling thread; a context manager.

    Args:
        receive_buffer: the size of the kernel's buffer in bytes, for a slow reader.
        source: the local address to connect from.
        seconds: the longest silence that is not an error.
    """

    def __init__(
        self,
        port: int,
        target: str,
        headers: Mapping[str, str] = ACCEPT,
        *,
        receive_buffer: int | None = None,
        source: str = HOST,
        seconds: float = WAIT_SECONDS,
    ) -> None:
        super().__init__()
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        if source != HOST:
            self.socket.bind((source, 0))
        self.socket.connect((HOST, port))
        self.socket.sendall(subscribe_request(target, headers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read(self, most: int = READ_BYTES) -> bool:
        """Read once; False at the end, whether the stream was completed or cut."""
        if self.is_complete:
            return False
        try:
            data = self.socket.recv(most)
        except ConnectionError:
            return False
        before = len(self.body)
        self.feed(data)
        return len(self.body) > before or (bool(data) and not self.is_complete)

    def read_head(self) -> Self:
        """Read until the head is complete."""
        while not self.status:
            assert self.read(), "the connection ended before the head"
        return self

    def read_first(self) -> None:
        """Read the first event, or to the end if there is none."""
        while not self.events and self.read():
            pass

    def opened(self) -> Self:
        """Read `broker.open`, which must be the first event."""
        assert self.wait_for_events(1)[0].type == "broker.open"
        assert self.status == 200
        return self

    def wait_for_events(self, count: int) -> list[Event]:
        """All events, once there are at least `count`."""
        while len(self.events) < count:
            assert self.read(), f"ended after {len(self.events)} of {count} events: {self.body[-500:]!r}"
        return self.events

    def rest(self) -> bytes:
        """The whole body, once it has ended."""
        while self.read():
            pass
        return bytes(self.body)


class AsyncStream(EventStream):
    """A stream that is read in a loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, target: str, headers: Mapping[str, str] = ACCEPT) -> Self:
        """Connect, and read until the head is complete. Raises ConnectionError if the connection ends before."""
        stream = cls(*await asyncio.open_connection(HOST, port))
        try:
            stream.writer.write(subscribe_request(target, headers))
            while not stream.status:
                if not await stream.more():
                    raise ConnectionError("the connection ended before the head")
        except BaseException:
            await stream.close()
            raise
        return stream

    async def more(self, most: int = READ_BYTES) -> bool:
        """Read once; False at the end. Raises ConnectionError if the stream was reset."""
        async with asyncio.timeout(WAIT_SECONDS):
            data = await self.reader.read(most)
        self.feed(data)
        return bool(data)

    async def until(self, condition: Callable[[], object]) -> None:
        """Read on until `condition()` holds; fail if the stream ends before."""
        while not condition():
            assert await self.more(), f"the stream ended: {bytes(self.body[-500:])!r}"

    async def event(self, count: int) -> Event:
        """The event number `count`, from 1, once it is there."""
        await self.until(lambda: len(self.events) >= count)
        return self.events[count - 1]

    async def data(self, count: int) -> list[str]:
        """The data of the published events, once there are at least `count`."""
        await self.until(lambda: len(self.published()) >= count)
        return [event.data for event in self.published()]

    async def end(self) -> bytes:
        """The whole body, once it has ended."""
        while await self.more():
            pass
        return bytes(self.body)

    async def close(self) -> None:
        await close(self.writer)
