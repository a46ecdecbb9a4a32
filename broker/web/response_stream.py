"""Serves a stream as a plain response of aiohttp, for an application that is not served by the front.

The subscriber writes to a transport; this one hands the bytes to the response. A stream costs a task and a response here, and
a client that leaves is seen at the next write, such as a heartbeat. `broker serve` has its own front, where it costs neither.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web

from broker.fanout.origin import Client
from broker.fanout.subscriber import Subscriber
from broker.web.history import LongPoll
from broker.web.subscribe import HEADERS, Subscription
from broker.web.unread_answers import UnreadAnswers
from broker.web.values import Answer

BUFFER_BYTES = 64 << 10


async def serve(request: web.Request, subscription: Subscription, client: Client) -> web.StreamResponse:
    """Answer `request` with the stream, until it ends or the client leaves."""
    transport = ResponseTransport(request)
    subscription.attach_body(transport, client)
    response = web.StreamResponse(headers={**HEADERS, "Vary": "Accept"})
    response.force_close()
    try:
        await response.prepare(request)
        await transport.send_to(response)
    except BaseException as error:
        transport.end(error)
        raise
    transport.end(None)
    return response


async def wait(request: web.Request, poll: LongPoll, client: Client) -> Answer:
    """The answer to a long poll. A client that leaves is not seen before the end of its wait."""
    answers: list[Answer] = []

    def take(answer: Answer) -> bytes:
        answers.append(Answer(answer.status, answer.body, answer.headers, closes=True))
        return b""

    transport = ResponseTransport(request)
    poll.attach(transport, take, client)
    try:
        await transport.closed()
    except BaseException as error:
        transport.end(error)
        raise
    transport.end(None)
    if not answers:
        raise ConnectionResetError("the poll was cut")
    return answers[0]


async def send(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Send a body that is a whole event stream. It has no length, so aiohttp sends it as chunks, or on HTTP/1.0 up to the close."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.closes:
        response.force_close()
    await response.prepare(request)
    await response.write(answer.body)
    await response.write_eof()
    return response


async def send_large(
    request: web.Request, response: web.Response, unread: UnreadAnswers, address: str, seconds: float
) -> None:
    """Send a large answer to `address`, and count it until the client has taken most of it: all but aiohttp's buffer of 64 KiB.

    Raises:
        RateLimited, Overloaded: it lacks room.
        ConnectionError: the client has left, or has not read it in time.
    """
    size = response.content_length or 0
    unread.check(address, size)
    unread.hold(response, address, size)
    try:
        async with asyncio.timeout(seconds):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client did not read its answer in time") from None
    finally:
        unread.release(response)


class ResponseTransport(asyncio.Transport):
    """Sends a subscriber's bytes by a response.

    A subscriber is up to date while at most `BUFFER_BYTES` wait for the response, as with a socket's buffer; beyond that it lags.
    """

    def __init__(self, request: web.Request) -> None:
        super().__init__()
        self._request = request
        self._protocol: asyncio.Protocol | None = None
        self._pieces: list[bytes] = []
        self._size = 0  # of `_pieces`, and of the bytes on their way
        self._is_closing = False
        self._is_aborted = False
        self._written = asyncio.Event()

    # For the subscriber

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`sslcontext` is never None here: the subscriber must not write to the socket itself."""
        return self if name == "sslcontext" else self._request.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._is_closing:
            self._pieces.append(bytes(data))
            self._size += len(data)
            self._written.set()

    def get_write_buffer_size(self) -> int:
        return self._size if self._size > BUFFER_BYTES else 0

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True
        self._written.set()

    def abort(self) -> None:
        self._is_closing = self._is_aborted = True
        self._written.set()
        if self._request.transport is not None:
            self._request.transport.abort()

    # For the response

    async def closed(self) -> None:
        """Wait until the subscriber closes."""
        while not self._is_closing:
            self._written.clear()
            await self._written.wait()

    async def send_to(self, response: web.StreamResponse) -> None:
        """Send the bytes, until the subscriber closes. Raises `ConnectionError` if the client has left."""
        while not self._is_aborted:
            if self._pieces:
                data, self._pieces = b"".join(self._pieces), []
                await response.write(data)
                self._size -= len(data)
                if self._size <= BUFFER_BYTES and self._protocol is not None:
                    self._protocol.resume_writing()
            elif self._is_closing:
                if isinstance(self._protocol, Subscriber) and not self._protocol.is_complete:
                    self._cut(self._protocol)
                    break
                return
            else:
                self._written.clear()
                await self._written.wait()
        raise ConnectionResetError("the stream was cut")

    def _cut(self, subscriber: Subscriber) -> None:
        """Close the connection without the response's end, which would look like the stream's."""
        if subscriber.silent and self._request.transport is not None:
            self._request.transport.close()  # the client gets all that was written
        else:
            self.abort()

    def end(self, error: BaseException | None) -> None:
        """Report to the subscriber that the connection is gone."""
        self._is_closing = True
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error if isinstance(error, Exception) else None)
