"""One connection: parses its requests, runs their handlers one after the other, and sends the answers in order.

A handler that never waits runs within the call that brings its request, without a task. A request whose body is still on its
way runs as soon as its head is complete, so that it can be refused before the body is sent. A stream takes the transport
away: from then on its subscriber is the protocol, and nothing is left of the request.

Rules: at most one request is in progress. Requests behind it wait, and reading stops, so what a client can make grow is one
read of the transport. Bytes behind a stream's request are ignored.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from time import time
from typing import TYPE_CHECKING, cast

import httptools

from broker.web.connection_timeouts import TimeoutReason
from broker.web.errors import problem
from broker.web.front.answers import CONTINUE
from broker.web.front.exchange import Exchange, Fault
from broker.web.front.head import NAMES, RequestHeaders, name_of, refusal
from broker.web.redaction import redact
from broker.web.values import Answer

if TYPE_CHECKING:
    from broker.web.front.front import Front

SEND_BUFFER_BYTES = 64 << 10
"""The kernel doubles it; without a bound it would hold megabytes for each stuck client (I4)."""
SLICE_BYTES = 16 << 10
"""Parsed at once: so many bytes of requests may wait, parsed, behind one in progress."""
MAX_EXCESS_BYTES = 16 << 10
"""Of a chunked body: what may be neither data nor the usual frame of a chunk, such as extensions and trailers."""
CHUNK_FRAME_BYTES = 16
_FRAMING = ("content-length", "transfer-encoding")
LINGER_SECONDS = 2.0
"""A client that is still sending its body may read the answer for so long."""

_logger = logging.getLogger("broker")


class HttpConnection(asyncio.Protocol):
    """A connection until it ends or becomes a stream.

    Args:
        peer: the client's address if a proxy told it; else the transport's.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_current",
        "_excess_bytes",
        "_front",
        "_has_ended",
        "_head_bytes",
        "_headers",
        "_holds_body",
        "_is_answered",
        "_is_broken",
        "_is_half_closed",
        "_is_head_begun",
        "_is_head_timed",
        "_is_reading",
        "_is_replaying",
        "_is_upgrading",
        "_is_writable",
        "_linger",
        "_parser",
        "_queue",
        "_rest",
        "_transport",
        "_url",
        "peer",
    )

    def __init__(self, front: Front, peer: str = "") -> None:
        self.peer = peer
        self._front = front
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._url = b""
        self._headers = RequestHeaders()
        self._head_bytes = 0  # fed since the last message, at least
        self._is_head_begun = False
        self._is_head_timed = False
        self._is_answered = False  # since the last `_settle`
        self._body: Exchange | None = None  # whose body is arriving
        self._body_bytes = 0  # of body in the present slice
        self._excess_bytes = 0
        self._current: Exchange | None = None  # whose handler runs
        self._queue: deque[Exchange] = deque()
        self._rest: bytes = b""  # read, and not parsed yet
        self._holds_body = False
        self._is_reading = True
        self._is_writable = True
        self._is_half_closed = False
        self._is_broken = False  # nothing that follows is HTTP
        self._is_upgrading = False  # the parser stops after this head
        self._is_replaying = False  # a new parser gets the framing of a request that is known
        self._has_ended = False  # what arrives is ignored
        self._linger: asyncio.TimerHandle | None = None

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are none
        if not self.peer:
            name = transport.get_extra_info("peername")
            self.peer = name[0] if isinstance(name, tuple) else ""
        if transport.get_extra_info("sslcontext") is None:
            transport.set_write_buffer_limits(high=0)  # each write is tried at once
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._parser = httptools.HttpRequestParser(self)
        self._front.connections.add(self)
        self._front.timeouts.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._forget()
        self._queue.clear()
        self._rest = b""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._body is not None:
            body, self._body = self._body, None
            body.fail(Fault.LOST)

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            return
        if self._rest:
            self._rest += data
        elif len(data) <= SLICE_BYTES:
            self._parse(data)
            self._serve_queue()
        else:
            self._parse_slices(data)

    def eof_received(self) -> bool:
        """Returns whether to stay open, to answer complete requests; an incomplete body is given up."""
        transport = self._transport
        if transport is None or self._has_ended or transport.get_extra_info("sslcontext") is not None:
            return False
        if self._body is not None or not (self._current or self._queue or self._rest):
            return False
        self._is_half_closed = True
        return True

    def pause_writing(self) -> None:
        self._is_writable = False
        if not self._has_ended:
            self._front.timeouts.answer_started(self)

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._transport is not None and not self._has_ended:
            self._front.timeouts.answer_sent(self)
            self._serve_queue()

    def time_out(self, reason: TimeoutReason) -> None:
        """Close the connection, with an answer if part of a head has arrived."""
        transport = self._transport
        if transport is None:
            return
        _logger.debug("closing a connection from %s: time-out %s", self.peer, reason)
        if reason is TimeoutReason.HEAD and self._is_head_begun and self._is_writable:
            self._refuse(
                problem("invalid-parameter", "The request's head did not arrive in time; send it at once.")
            )
            self._serve_queue()
        else:
            self._end()
            transport.abort()

    # Parsing

    def _parse_slices(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(data), SLICE_BYTES):
            if self._has_ended:
                return
            if self._queue:
                self._rest = bytes(view[start:])
                break
            self._parse(view[start : start + SLICE_BYTES])
            self._serve_queue()
        self._regulate()

    def _parse(self, data: bytes | memoryview) -> None:
        parser = self._parser
        if parser is None or self._is_broken:
            return
        self._head_bytes += len(data)
        self._body_bytes = 0
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_after_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._fail(error)
            return
        if self._body is not None:
            self._check_excess(len(data))
            if self._body is not None:
                self._enqueue(self._body)  # its handler need not wait for the body
        elif self._is_head_begun and self._head_bytes > self._front.max_head_bytes:
            refused = self._front.head_refusal(self._url, None)
            assert refused is not None
            self._refuse(refused)

    def _parse_after_upgrade(self, rest: bytes | memoryview) -> None:
        """Ignore an `Upgrade`. The parser stops at it, before the body: a new one goes on, told how the body is framed."""
        body = self._body
        if body is None or body.method == "CONNECT":
            self._is_broken = True
            if body is not None:
                self._enqueue(body)
            return
        headers = body.headers
        framing = "".join(f"{name}: {headers[name]}\r\n" for name in _FRAMING if name in headers)
        self._parser = parser = httptools.HttpRequestParser(self)
        self._is_replaying = True
        parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing.encode())
        self._is_replaying = False
        if rest:
            self._parse(rest)
        elif self._body is not None:
            self._enqueue(self._body)

    def _enqueue(self, exchange: Exchange) -> None:
        if not exchange.is_queued:
            exchange.is_queued = True
            self._queue.append(exchange)

    def _check_excess(self, size: int) -> None:
        """Fail a body that is mostly chunk extensions or trailers."""
        excess = size - self._body_bytes * (1 + CHUNK_FRAME_BYTES)
        self._excess_bytes = max(0, self._excess_bytes + excess)
        if self._excess_bytes > MAX_EXCESS_BYTES:
            self._fail(None)

    def _fail(self, error: Exception | None) -> None:
        """What has arrived is not HTTP: a body ends, and a request is refused."""
        self._is_broken = True
        if self._body is not None:
            body, self._body = self._body, None
            body.fail(Fault.MALFORMED)
            self._enqueue(body)
            return
        _logger.debug("not an HTTP request from %s: %s", self.peer, redact(repr(error)))
        self._refuse(problem("invalid-parameter", "This is not HTTP."))

    def _refuse(self, answer: Answer, version: str = "1.1") -> None:
        """Answer with this, after the requests before it, and then close."""
        self._is_broken = True
        exchange = Exchange(self, "GET", b"-", version, RequestHeaders(), keeps_alive=False, refusal=answer)
        exchange.started_at = time()
        self._queue.append(exchange)

    # From the parser

    def on_message_begin(self) -> None:
        self._is_head_begun = not self._is_replaying

    def on_url(self, url: bytes) -> None:
        if not self._is_replaying:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body is not None:
            return  # a trailer, or the head of `_parse_after_upgrade`
        headers, key = self._headers, NAMES.get(name) or name_of(name)
        text = value.decode("utf-8", "surrogateescape").rstrip(" \t")
        if key in headers:
            headers.repeat(key, text)
        else:
            headers[key] = text

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        if parser is None or self._is_replaying:
            self._is_upgrading = False
            return
        method, version = parser.get_method().decode(), parser.get_http_version()
        refused = refusal(version, headers)
        if self._head_bytes > self._front.max_head_bytes:
            refused = refused or self._front.head_refusal(self._url, headers)
        if "upgrade" in headers:
            self._is_upgrading = parser.should_upgrade()
        self._body = Exchange(
            self,
            method,
            self._url,
            version if version in ("1.0", "1.1") else "1.0",
            headers,
            keeps_alive=refused is None and method != "CONNECT" and parser.should_keep_alive(),
            refusal=refused,
        )
        if self._front.access_log is not None:
            self._body.started_at = time()
        self._url, self._headers = b"", RequestHeaders()
        self._is_head_begun = self._is_head_timed = False
        self._excess_bytes = 0

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body is not None:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        body = self._body
        if body is None or self._is_upgrading:
            return
        self._body = None
        body.end()
        self._head_bytes = 0
        self._enqueue(body)

    # For the request in progress

    def hold_body(self, *, held: bool) -> None:
        self._holds_body = held
        self._regulate()

    def send_continue(self) -> None:
        if self._transport is not None:
            self._transport.write(CONTINUE)

    def _regulate(self) -> None:
        """Read only while there is room for what arrives."""
        transport = self._transport
        if transport is None:
            return
        is_reading = self._has_ended or not (
            self._holds_body or self._queue or self._rest or not self._is_writable
        )
        if is_reading != self._is_reading:
            self._is_reading = is_reading
            if is_reading:
                transport.resume_reading()
            else:
                transport.pause_reading()

    # Serving

    def _serve_queue(self) -> None:
        """Serve the requests that have arrived, until one is in progress or the client does not read its answers."""
        queue = self._queue
        while self._current is None and self._is_writable and not self._has_ended:
            if queue:
                self._current = queue.popleft()
                self._front.serve(self, self._current)
            elif self._rest:
                rest, self._rest = self._rest, b""
                self._parse(rest[:SLICE_BYTES])
                self._rest = rest[SLICE_BYTES:]
            else:
                break
        self._settle()

    def _settle(self) -> None:
        """After something has arrived or was answered: which limit applies now, and whether to read on."""
        if self._transport is None or self._has_ended:
            return
        timeouts = self._front.timeouts
        if self._current is not None:
            timeouts.head_complete(self)
        elif not self._is_writable:
            pass  # `pause_writing` began the limit
        elif self._is_half_closed:
            self._end()
            self._transport.close()
            return
        elif self._is_head_begun:
            if not self._is_head_timed:
                self._is_head_timed = True
                timeouts.head_started(self)
        elif self._is_answered:
            timeouts.answer_sent(self)
        self._is_answered = False
        self._regulate()

    def answered(self, exchange: Exchange, data: bytes, *, closes: bool) -> None:
        """Send the answer to the request in progress."""
        self._current = None
        self._is_answered = True
        transport = self._transport
        if transport is None:
            return
        transport.write(data)
        if closes:
            self._end()
            if exchange.is_complete:
                self._close_when_sent(transport)
            else:
                self._linger_on(transport)

    def resume(self) -> None:
        """Serve on after a request whose handler had to wait."""
        self._serve_queue()

    def take_transport(self) -> asyncio.Transport | None:
        """The transport, for a stream; None if the client has left."""
        transport = self._transport
        if transport is None or self._is_half_closed or transport.is_closing():
            return None
        self._has_ended = True
        self._forget()
        self._current = self._body = None
        self._queue.clear()
        self._rest = b""
        transport.set_write_buffer_limits(high=0)  # else a small rest is never reported as sent
        if not self._is_reading:
            transport.resume_reading()
        return transport

    def leave(self) -> None:
        """Close without an answer: the client has left."""
        self._current = None
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close if no request is in progress."""
        if self._current is None and not self._has_ended and self._transport is not None:
            self._end()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Ending

    def _end(self) -> None:
        """Ignore what arrives from now on."""
        self._has_ended = True
        self._queue.clear()
        self._rest = b""
        self._regulate()

    def _close_when_sent(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size():
            self._front.timeouts.answer_started(self)
        transport.close()

    def _linger_on(self, transport: asyncio.Transport) -> None:
        """Let the client read the answer, though it may still be sending: a close now would reset the connection."""
        if transport.can_write_eof():
            transport.write_eof()
        loop = asyncio.get_running_loop()
        self._linger = loop.call_later(LINGER_SECONDS, transport.abort)

    def _forget(self) -> None:
        """The connection is no longer a request's."""
        self._front.connections.discard(self)
        self._front.timeouts.closed(self)
        self._parser = None  # which refers to this
        self._transport = None
