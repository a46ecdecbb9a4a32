"""Parses the bytes of one connection into requests.

Rules: bytes in, `Exchange`s out, in `ready`; no transport. llhttp has no limits, so they are here and in `chunks`. An `Upgrade`
is ignored.

llhttp itself refuses Content-Length with Transfer-Encoding, two Content-Lengths, folded headers and bare line feeds.
"""

from __future__ import annotations

import logging
from collections import deque

import httptools

from broker.web.errors import problem
from broker.web.front.chunks import Chunks
from broker.web.front.exchange import BodyFlow, Exchange, Fault
from broker.web.front.head import MAX_HEADERS, NAMES, Head, RequestHeaders, head_size, name_of, refusal
from broker.web.front.known_heads import HEAD_END, HEAD_END_BYTES, MAX_HEAD_BYTES, KnownHeads
from broker.web.redaction import redact
from broker.web.values import Answer

_FRAMING = ("content-length", "transfer-encoding")
_logger = logging.getLogger("broker")


class RequestParser:
    """The parser of one connection. Call `close` at its end: llhttp, this and the connection refer to each other.

    Args:
        flow: the connection.
        max_head_bytes: the limit for a request line with its headers.
        known_heads: those that need no parsing, shared by all connections.

    Attributes:
        ready: requests to be served; their bodies may be on their way.
        body: the request with a body that is arriving, or None.
        is_head_begun: whether a part of a head has arrived.
    """

    __deletable__ = ("_flow",)  # mypyc asks
    __slots__ = (
        "_begun_bytes",
        "_body_bytes",
        "_chunks",
        "_flow",
        "_head_bytes",
        "_headers",
        "_heads",
        "_is_between",
        "_is_broken",
        "_is_replaying",
        "_is_upgrading",
        "_known_heads",
        "_last_head",
        "_llhttp",
        "_max_head_bytes",
        "_trailers",
        "_url",
        "body",
        "is_head_begun",
        "ready",
    )

    def __init__(self, flow: BodyFlow, max_head_bytes: int, known_heads: KnownHeads) -> None:
        self.ready: deque[Exchange] = deque()
        self.body: Exchange | None = None
        self.is_head_begun = False
        self._flow = flow
        self._max_head_bytes = max_head_bytes
        self._known_heads = known_heads
        self._url = b""
        self._headers = RequestHeaders()
        self._head_bytes = 0  # fed since the last message, or more
        self._begun_bytes = 0  # fed with the end of that message, if a head has begun behind it
        self._body_bytes = 0  # of body in the present bytes
        self._chunks: Chunks | None = None  # of the body that is arriving, if it has chunks
        self._trailers = 0
        self._heads = 0  # parsed by llhttp so far
        self._last_head: Head | None = None  # of them
        self._is_between = True  # llhttp has consumed whole messages, and another may follow
        self._is_broken = False  # nothing that follows is HTTP
        self._is_upgrading = False  # llhttp stops after this head
        self._is_replaying = False  # a new llhttp gets the framing of a request that is known
        self._llhttp: httptools.HttpRequestParser | None = None  # made for the first head that isn't known

    def memory(self) -> int:
        """About how many bytes it takes: an incomplete head, and the requests that wait to be served."""
        head_bytes = self._head_bytes + self._begun_bytes if self.is_head_begun else 0
        return head_bytes + sum(exchange.memory() for exchange in self.ready)

    def close(self) -> None:
        """The connection has ended: so has the body that was arriving."""
        self._is_broken = True
        self.ready.clear()
        self._llhttp = None
        del self._flow
        if self.body is not None:
            body, self.body = self.body, None
            body.fail(Fault.LOST)
            body.notify()

    def feed(self, data: bytes) -> None:
        """Parse the bytes that have arrived, and then notify the handler of the body that was arriving."""
        body, chunks = self.body, self._chunks
        if body is not None and chunks is not None:
            content = chunks.whole(data)
            if content is not None:
                body.hand(content)
                return
        if self._is_between and not self._is_broken:
            data = self._feed_known(data)
        if data:
            self._parse(data)
        if body is not None:
            body.notify()

    def _feed_known(self, data: bytes) -> bytes:
        """Take the requests at the start of `data` with known heads and whole bodies; returns the rest."""
        start, size = 0, len(data)
        while start < size:
            stop = data.find(HEAD_END, start, start + MAX_HEAD_BYTES)
            if stop < 0:
                break
            stop += HEAD_END_BYTES
            text = data[start:stop]
            head = self._known_heads.get(text)
            if head is None:
                if self._heads or self._known_heads.is_common(text):
                    self._learn(text)
                    start = stop
                break
            end = stop + (head.length or 0)
            if end > size:
                break
            self.ready.append(Exchange(self._flow, head, data[stop:end]))
            start = end
        return data[start:] if start else data

    def _learn(self, text: bytes) -> None:
        """Parse `text`, the bytes of a whole head or not HTTP, and remember the head."""
        heads = self._heads
        self._parse(text)
        head = self._last_head
        if head is None or self._is_broken or self._heads != heads + 1 or self._body_bytes:
            return  # body bytes would mean that llhttp sees the head's end earlier, as it would after a bare LF, which it refuses
        if self._is_between if not head.length else self.body is not None:  # llhttp is at the head's end too
            self._known_heads.learn(text, head)

    def _parse(self, data: bytes) -> None:
        if self._is_broken:
            return
        self._head_bytes += len(data)
        self._body_bytes = 0
        if self._llhttp is None:
            self._llhttp = httptools.HttpRequestParser(self)
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_after_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._fail(repr(error))
            return
        if self.body is not None:
            if self._chunks is None or self._chunks.parsed(data, self._body_bytes):
                self._is_ready(self.body)  # its handler need not wait for the body
            else:
                self._fail("too many chunk extensions or trailers")
        elif self.is_head_begun:
            if not self._head_bytes:
                self._begun_bytes = len(data)
            elif self._head_bytes > self._max_head_bytes:
                self.refuse(self._too_long())

    def refuse(self, answer: Answer) -> None:
        """Ignore all further bytes; `answer` is for after the answers to the requests before it."""
        self._is_broken = True
        head = Head("GET", b"-", "1.1", RequestHeaders(), keeps_alive=False, refusal=answer)
        refused = Exchange(self._flow, head)
        refused.is_queued = True
        self.ready.append(refused)

    def _is_ready(self, exchange: Exchange) -> None:
        if not exchange.is_queued:
            exchange.is_queued = True
            self.ready.append(exchange)

    def _fail(self, why: str) -> None:
        """The bytes that arrived are not HTTP: the body is lost, or a request is refused."""
        self._is_broken = True
        if self.body is not None:
            body, self.body = self.body, None
            body.fail(Fault.MALFORMED)
            self._is_ready(body)
            return
        _logger.debug("not an HTTP request: %s", redact(why))
        self.refuse(problem("invalid-parameter", "This is not HTTP."))

    def _feed_after_upgrade(self, rest: bytes) -> None:
        """llhttp stops at an `Upgrade`, before the body: a new one goes on, with the framing of the body."""
        body = self.body
        if body is None:  # CONNECT
            self._is_broken = True
            return
        headers = body.head.headers
        framing = "".join(f"{name}: {headers[name]}\r\n" for name in _FRAMING if name in headers)
        self._llhttp = httptools.HttpRequestParser(self)
        self._is_replaying = True
        try:
            self._llhttp.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n".encode("utf-8", "surrogateescape"))
        except httptools.HttpParserError as error:
            self._fail(repr(error))
            return
        finally:
            self._is_replaying = False
        if rest:
            self._parse(rest)
        elif self.body is not None:
            self._is_ready(self.body)

    def _too_long(self) -> Answer:
        most = f"at most {self._max_head_bytes:,} bytes are accepted"
        return problem("invalid-parameter", f"The request's head is too long; {most}.")

    # From llhttp. None of these raises: llhttp would keep the error, and with it its frames.

    def on_message_begin(self) -> None:
        self._is_between = False
        self.is_head_begun = not self._is_replaying

    def on_url(self, url: bytes) -> None:
        if not self._is_replaying:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.body is not None:
            self._trailers += not self._is_replaying
            return
        headers, key = self._headers, NAMES.get(name) or name_of(name)
        text = value.decode("utf-8", "surrogateescape").rstrip(" \t")
        if key in headers:
            headers.repeat(key, text)
        else:
            headers[key] = text

    def on_headers_complete(self) -> None:
        if self._is_replaying:
            self._is_upgrading = False
            return
        llhttp, url, headers = self._llhttp, self._url, self._headers
        assert llhttp is not None
        method, version = llhttp.get_method().decode(), llhttp.get_http_version()
        refused = refusal(method, url, version, headers)
        if self._head_bytes > self._max_head_bytes < len(url) + head_size(headers):
            refused = self._too_long()
        if "upgrade" in headers:
            self._is_upgrading = llhttp.should_upgrade()
        self._heads += 1
        self._last_head = Head(
            method,
            url,
            version if version == "1.1" else "1.0",
            headers,
            keeps_alive=refused is None and llhttp.should_keep_alive(),
            refusal=refused,
        )
        self.body = Exchange(self._flow, self._last_head)
        self._url, self._headers = b"", RequestHeaders()
        self.is_head_begun = False
        self._chunks = Chunks() if "transfer-encoding" in headers else None
        self._begun_bytes = self._trailers = 0

    def on_chunk_header(self) -> None:
        if self._chunks is not None:
            self._chunks.is_between = False

    def on_chunk_complete(self) -> None:
        if self._chunks is not None:
            self._chunks.is_between = True

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self.body is not None:
            self.body.feed(data)

    def on_message_complete(self) -> None:
        body = self.body
        if body is None or self._is_upgrading:
            return
        if self._trailers > MAX_HEADERS:
            self._fail("too many trailers")
        else:
            self.body = self._chunks = None
            self._head_bytes = 0
            self._is_between = body.head.keeps_alive
            body.end()
            self._is_ready(body)
