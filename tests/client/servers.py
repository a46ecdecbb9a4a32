"""Servers that answer in chosen ways; raw bytes, in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from broker.client import Connection
from tests.support.http import RESET_ON_CLOSE
from tests.support.tcp_proxy import Listening
from tests.support.waiting import WAIT_SECONDS, until

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
OPENING = b"retry: 10\n:\n"
END = b'event: broker.end\ndata: {"topic":"a","reason":"closed"}\nid: 99-0\n\n'
_T = TypeVar("_T")


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A complete response, after which the connection ends."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def problem(status: str, code: str, *headers: str, **extra: object) -> bytes:
    """A problem as the broker sends it; its detail is `Because.`."""
    members = "".join(f', "{name}": {value}' for name, value in extra.items())
    body = f'{{"title": "T", "status": {status[:3]}, "detail": "Because.", "code": "{code}"{members}}}'
    return answer(status, body.encode(), "Content-Type: application/problem+json", *headers)


CREATED = answer("201 Created", b'{"topic": "a", "id": "5-0"}', "Content-Type: application/json")
"""The response to one event."""


def event(event_id: str, data: str = "x") -> bytes:
    """An event as the broker sends it."""
    return f"data: {data}\nid: {event_id}\n\n".encode()


@dataclass
class ServerConnection:
    """One connection and its request; `body` has the length in Content-Length."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query)

    @property
    def cursor(self) -> str:
        return self.headers.get("last-event-id", "")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()

    async def left(self) -> None:
        """Return when the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = bytes | Callable[[ServerConnection], Awaitable[None]]
"""Bytes to send to a connection, or a function that serves it; then it is closed."""


class ScriptedServer(Listening):
    """Serves each connection with the next of `scripts`, then repeats the last one; an async context manager.

    Attributes:
        url: such as `http://127.0.0.1:40123`.
        accepted: all that came, in order.
    """

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self.accepted: list[ServerConnection] = []
        self._scripts = scripts

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            connection = await _read_request(reader, writer)
            script = self._scripts[min(len(self.accepted), len(self._scripts) - 1)]
            self.accepted.append(connection)
            if isinstance(script, bytes):
                await connection.send(script)
            else:
                await script(connection)
        writer.close()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ServerConnection:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ServerConnection(method, target, headers, body, reader, writer)


async def stay(connection: ServerConnection) -> None:
    """Send nothing until the client disconnects."""
    await connection.left()


def then_stay(data: bytes) -> Script:
    """Send `data`, and then nothing until the client disconnects."""

    async def script(connection: ServerConnection) -> None:
        await connection.send(data)
        await connection.left()

    return script


SILENCES = {"no data for 0.2 s", "no answer: it took too long"}
"""Why a client with `silence_seconds=0.2` leaves a `SilentServer`."""


class SilentServer(ScriptedServer):
    """Sends one event, then nothing; leaves the next requests unanswered; ends the topic once the client has met both.

    On a machine that stalls, the client may meet one of them several times.

    Args:
        changes: what the client has reported so far.
    """

    def __init__(self, changes: Sequence[Connection]) -> None:
        super().__init__(self._script)
        self._changes = changes

    async def _script(self, connection: ServerConnection) -> None:
        if not connection.cursor:
            await connection.send(STREAM + OPENING + event("1-0"))
        elif {change.why for change in self._changes} >= SILENCES:
            await connection.send(STREAM + END)
            return
        await connection.left()


async def take(events: AsyncIterator[_T], count: int) -> list[_T]:
    """The next `count` of `events`."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [await anext(events) for _ in range(count)]


async def rest(events: AsyncIterator[_T]) -> list[_T]:
    """All of `events`, up to their end."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [event async for event in events]


async def wait_for_leave(server: ScriptedServer) -> None:
    """Return when the server's only client has disconnected."""
    await until(lambda: server.accepted[0].reader.at_eof(), "the connection is closed")
