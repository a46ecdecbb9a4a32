"""HTTP by hand, for requests that no well-behaved client sends, and to see every byte of the answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import selectors
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import WAIT_SECONDS

HOST = "127.0.0.1"
READ_BYTES = 1 << 16
NDJSON = "Content-Type: application/x-ndjson"
JSON = "Accept: application/json"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For `SO_LINGER`: the connection ends with a RST."""


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; header names are in lower case, and the last header of a name counts."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def request(method: str, target: str | bytes, *headers: str | bytes, body: bytes | None = None) -> bytes:
    """A request that has what HTTP/1.1 needs, then `headers`; text is sent as UTF-8, bytes as they are."""
    lines = [b"%b %b HTTP/1.1" % (method.encode(), _bytes(target)), b"Host: " + HOST.encode()]
    lines += map(_bytes, headers)
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in chunks; an empty one is left out, for it would be the last."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + end


class ChunkDecoder:
    """Takes the framing of chunks off a body that arrives in parts of any length; fails on framing that is wrong.

    Attributes:
        is_complete: whether the last chunk has arrived.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._framing = b""  # an incomplete line: a chunk's size, or what ends a chunk
        self._left = 0  # of the present chunk

    @property
    def is_between_chunks(self) -> bool:
        """Whether all of the last chunk has arrived, and nothing of the next."""
        return not self._left and not self._framing

    def feed(self, data: bytes) -> bytes:
        """The part of the body in `data`."""
        body = b""
        while data:
            assert not self.is_complete, f"bytes after the last chunk: {data[:100]!r}"
            if self._left:
                taken, data = data[: self._left], data[self._left :]
                self._left -= len(taken)
                body += taken
                if not self._left:
                    self._framing = b"end"
                continue
            line, line_end, data = (self._framing + data).partition(b"\r\n")
            self._framing = b""
            if not line_end:
                self._framing = line
                break
            self._end_line(line)
        return body

    def _end_line(self, line: bytes) -> None:
        if line == b"end":
            return
        if line == b"last":
            self.is_complete = True
            return
        self._left = int(line, 16)
        if not self._left:
            self._framing = b"last"


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer, from its head with or without the blank line."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    protocol, status, _ = first.split(" ", 2)
    assert protocol in ("HTTP/1.1", "HTTP/1.0"), first
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status), headers


async def read_head(
    reader: asyncio.StreamReader, versions: tuple[bytes, ...] = (b"HTTP/1.1",)
) -> tuple[int, dict[str, str]]:
    """The status and the headers of the next answer; its version must be one of these."""
    async with asyncio.timeout(WAIT_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(versions), head
    return parse_head(head)


async def read_answer(
    reader: asyncio.StreamReader, versions: tuple[bytes, ...] = (b"HTTP/1.1",), *, has_body: bool = True
) -> Answer:
    """The next whole answer; one to HEAD has no body."""
    status, headers = await read_head(reader, versions)
    length = int(headers.get("content-length", 0)) if has_body else 0
    async with asyncio.timeout(WAIT_SECONDS):
        return Answer(status, headers, await reader.readexactly(length))


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whichever side was first to do so."""
    writer.close()
    try:
        async with asyncio.timeout(WAIT_SECONDS):  # what is still to be sent may never be read
            await writer.wait_closed()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


Where = int | tuple[str, int] | Path
"""A port on `HOST`, an address, or a unix socket."""


def _connect(where: Where) -> socket.socket:
    if isinstance(where, Path):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(WAIT_SECONDS)
        connected.connect(str(where))
        return connected
    address = (HOST, where) if isinstance(where, int) else where
    connected = socket.create_connection(address, timeout=WAIT_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Connection:
    """A connection that sends and reads at the same time, since an answer may come early; a context manager.

    Attributes:
        received: the bytes that no method has taken yet; after `stream_head` without the framing of chunks.
        ended: whether the other side has ended the connection, by whatever means.
    """

    def __init__(self, where: Where) -> None:
        self.socket = _connect(where)
        self.socket.setblocking(False)
        self.received = b""
        self.ended = False
        self._chunks: ChunkDecoder | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of `data`, or as much as the other side takes before it closes."""
        left = memoryview(data)
        deadline = time.monotonic() + WAIT_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while left and not self.ended:
                assert time.monotonic() < deadline, f"{len(left)} bytes could not be sent"
                for _, events in selector.select(1):
                    if events & selectors.EVENT_READ:
                        self._receive()
                    if events & selectors.EVENT_WRITE:
                        left = left[self._send_some(left) :]

    def _send_some(self, data: memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the other side closed; its last bytes are still to be read
            return len(data)

    def _receive(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.received += data if self._chunks is None else self._chunks.feed(data)
        self.ended = not data

    def more(self, seconds: float = WAIT_SECONDS) -> bool:
        """Wait for the next bytes and add them to `received`; False at the end. Fails after `seconds`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            if not self.ended:
                assert selector.select(seconds), f"nothing for {seconds} s after {self.received[-200:]!r}"
                self._receive()
        return not self.ended

    def half_close(self) -> None:
        """Shut the sending side down: the other side reads an end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def until(self, wanted: bytes) -> bytes:
        """Read on until `wanted` came, and return all up to its end."""
        while wanted not in self.received:
            assert self.more(), f"ended before {wanted!r}: {self.received[-500:]!r}"
        index = self.received.index(wanted) + len(wanted)
        taken, self.received = self.received[:index], self.received[index:]
        return taken

    def stream_head(self) -> bytes:
        """The head of the next answer; if its body is chunked, all that follows is read without the framing."""
        head = self.until(b"\r\n\r\n")
        if parse_head(head)[1].get("transfer-encoding") == "chunked":
            self._chunks = ChunkDecoder()
            self.received = self._chunks.feed(self.received)
        return head

    def answer(self) -> Answer:
        """The next whole answer."""
        head = self.until(b"\r\n\r\n")
        status, headers = parse_head(head)
        length = int(headers.get("content-length", 0))
        while len(self.received) < length:
            assert self.more(), f"ended within the body: {head!r} {self.received!r}"
        body, self.received = self.received[:length], self.received[length:]
        return Answer(status, headers, body)

    def rest(self) -> bytes:
        """All that still comes until the other side ends the connection."""
        while self.more():
            pass
        return self.received


def exchange(where: Where, data: bytes) -> Answer:
    """Send `data` on a connection of its own and return the first answer other than `100 Continue`."""
    with Connection(where) as connection:
        connection.send(data)
        answer = connection.answer()
        return connection.answer() if answer.status == 100 else answer
