"""One HTTP/1.1 exchange byte by byte: when each piece of the response arrived, how it was framed, how it ended.

Rules: an HTTP library hides all of that, so streams are read here. `httptools` parses. A response is kept up to `MAX_BYTES`;
a longer one ends the exchange, so that a hostile server can't fill the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import httptools
from multidict import CIMultiDict

from broker import sse
from broker.errors import BrokerError
from broker.events import Event

MAX_BYTES = 1 << 20
MAX_HEAD_BYTES = 64 << 10
CONNECT_SECONDS = 10.0
READ_BYTES = 1 << 16
LAST_CHUNK = "last-chunk"
CLOSED = "closed"
RESET = "reset"
TOO_LONG = "too-long"
MALFORMED = "malformed"
"""How an exchange ended (`Exchange.ended`)."""


@dataclass(slots=True)
class Exchange:
    """A request that was sent, and what of its response has arrived. Times are loop times, in seconds.

    Attributes:
        version: the HTTP version of the response, such as "1.1"; "" before its head.
        body: with chunks and compression removed.
        arrivals: time and size of each read that had a part of the body, compressed or not.
        chunks: the payload of each complete chunk.
        events: the events of an event stream, each with the time of its arrival.
        heartbeats: when comments arrived. The first one is the stream's opening.
        ended: how it ended; None while it is open.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent_at: float
    version: str = ""
    status: int = 0
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    events: list[tuple[float, Event]] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    ended: str | None = None
    ended_at: float = 0.0
    _parser: httptools.HttpResponseParser = field(init=False)
    _decoder: sse.Decoder = field(default_factory=lambda: sse.Decoder(MAX_BYTES))
    _inflater: zlib._Decompress | None = None
    _received: int = 0
    _encoded: list[bytes] = field(default_factory=list)
    _chunk: bytearray = field(default_factory=bytearray)
    _is_complete: bool = False

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    @property
    def has_head(self) -> bool:
        """Whether the head has arrived."""
        return bool(self.status)

    @property
    def retry_ms(self) -> int | None:
        """The stream's last `retry:`."""
        return self._decoder.retry_ms

    def published(self) -> Sequence[tuple[float, Event]]:
        """The events that are not the broker's own."""
        return [one for one in self.events if not (one[1].type or "").startswith("broker.")]

    def control(self, name: str) -> Event | None:
        """The first control event of this type."""
        return next((event for _, event in self.events if event.type == name), None)

    async def send(self, data: bytes) -> None:
        """Send `data`. That the other side has left shows when the response is read."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """Read until `condition()` is true, the exchange ends, or `seconds` are over. Returns whether it is true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and self.ended is None:
                    await self._read()
        return bool(condition())

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self.writer.wait_closed()

    async def _read(self) -> None:
        try:
            data = await self.reader.read(READ_BYTES)
        except OSError:
            self._end(RESET)
            return
        if not data:
            self._end(CLOSED)
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._end(MALFORMED)
            return
        self._take(asyncio.get_running_loop().time())
        if self._is_complete:
            self._end(LAST_CHUNK)
        elif self._received > (MAX_BYTES if self.has_head else MAX_HEAD_BYTES):
            self._end(TOO_LONG)

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        self.ended_at = asyncio.get_running_loop().time()

    def _take(self, now: float) -> None:
        encoded = b"".join(self._encoded)
        self._encoded.clear()
        if not encoded:
            return
        self.arrivals.append((now, len(encoded)))
        try:
            data = self._decoded(encoded)
            self.heartbeats += [now] * ((self.body[-1:] or b"\n") + data).count(b"\n:")
            self.body += data
            self.events += [(now, event) for event in self._decoder.feed(data)]
        except (zlib.error, BrokerError):
            self._end(MALFORMED)

    def _decoded(self, encoded: bytes) -> bytes:
        """Without compression, and never more than `MAX_BYTES` of the whole body."""
        if self._inflater is None:
            return encoded
        data = self._inflater.decompress(encoded, MAX_BYTES - len(self.body) + 1)
        if len(self.body) + len(data) > MAX_BYTES:
            self._end(TOO_LONG)
        return data

    # Called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:  # an interim answer: the real one follows
            self.headers.clear()
            return
        self.version = self._parser.get_http_version()
        self.status = status
        encoding = self.headers.get("Content-Encoding", "").lower()
        if encoding in ("gzip", "deflate"):
            self._inflater = zlib.decompressobj(47 if encoding == "gzip" else zlib.MAX_WBITS)

    def on_body(self, data: bytes) -> None:
        self._encoded.append(data)
        self._chunk += data

    def on_chunk_complete(self) -> None:
        if self._chunk:
            self.chunks.append(bytes(self._chunk))
            self._chunk.clear()

    def on_message_complete(self) -> None:
        self._is_complete = self.has_head


async def connect(
    url: str, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the host of `url`; `context` is for https.

    Raises:
        OSError: it failed; `ssl.SSLError` and `TimeoutError` are such errors.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    async with asyncio.timeout(CONNECT_SECONDS):
        return await asyncio.open_connection(
            parts.hostname,
            parts.port or (443 if secure else 80),
            ssl=context if secure else None,
            server_hostname=parts.hostname if secure else None,
        )


async def exchange(
    url: str, context: ssl.SSLContext | None, method: str, target: str, headers: CIMultiDict[str]
) -> Exchange:
    """Send a request and return at once; `target` is its path with the query. Raises as `connect`."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return await raw_exchange(url, context, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


async def raw_exchange(url: str, context: ssl.SSLContext | None, request: bytes) -> Exchange:
    """Send these bytes. Raises as `connect`."""
    reader, writer = await connect(url, context)
    made = Exchange(reader, writer, asyncio.get_running_loop().time())
    await made.send(request)
    return made
