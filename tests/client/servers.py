"""Servers that misbehave in a way that a test chooses, in the test's own loop: raw bytes, no HTTP library."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

from tests.support.http import RESET_ON_CLOSE

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
OPENING = b"retry: 10\n:\n"
WAIT_SECONDS = 20
_T = TypeVar("_T")


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer, after which the connection ends."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def problem(status: str, code: str, *headers: str, **extra: object) -> bytes:
    """A refusal in the broker's form; its detail is `Because.`."""
    members = "".join(f', "{name}": {value}' for name, value in extra.items())
    body = f'{{"title": "T", "status": {status[:3]}, "detail": "Because.", "code": "{code}"{members}}}'
    return answer(status, body.encode(), "Content-Type: application/problem+json", *headers)


def event(event_id: str, data: str = "x") -> bytes:
    """An event as it leaves."""
    return f"data: {data}\nid: {event_id}\n\n".encode()


@dataclass
class Visit:
    """One connection and the request that came on it; `body` is what its Content-Length promised."""

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
        """Return once the other side has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = bytes | Callable[[Visit], Awaitable[None]]
"""What a connection gets: these bytes, or what the function does; then it is closed."""


class _Listening:
    """A server while its context lasts; an async context manager."""

    def __init__(self) -> None:
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class ScriptedServer(_Listening):
    """Serves each connection by the next of `scripts`, the last one again and again; an async context manager.

    Attributes:
        url: such as `http://127.0.0.1:40123`.
        visits: all that came, in order.
    """

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self.visits: list[Visit] = []
        self._scripts = scripts

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            visit = await _visit(reader, writer)
            script = self._scripts[min(len(self.visits), len(self._scripts) - 1)]
            self.visits.append(visit)
            if isinstance(script, bytes):
                await visit.send(script)
            else:
                await script(visit)
        writer.close()


async def _visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Visit:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Visit(method, target, headers, body, reader, writer)


async def stay(visit: Visit) -> None:
    """Say nothing until the other side leaves."""
    await visit.left()


def then_stay(data: bytes) -> Script:
    """`data`, and then silence until the other side leaves."""

    async def script(visit: Visit) -> None:
        await visit.send(data)
        await visit.left()

    return script


class TcpProxy(_Listening):
    """Passes connections on to `port`, and cuts all at once when told; an async context manager.

    Attributes:
        url: such as `http://127.0.0.1:40123`.
        swallow: while true, nothing comes back; what is sent still arrives.
        connections: how many there were.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self.swallow = False
        self.connections = 0
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Drop all connections, and what is on its way in them."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ours = {writer}
        self._writers |= ours
        try:
            onward, back = await asyncio.open_connection("127.0.0.1", self._port)
            ours.add(back)
            self._writers |= ours
            await asyncio.gather(self._pass(reader, back, False), self._pass(onward, writer, True))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in ours:
                one.transport.abort()
            self._writers -= ours

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, backward: bool) -> None:
        while data := await source.read(65536):
            if not (backward and self.swallow):
                target.write(data)
                await target.drain()
        raise ConnectionResetError("one side has left")


async def until(condition: Callable[[], object], what: str) -> None:
    """Return once `condition()` is true; fail, naming `what`, if that takes too long."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_SECONDS} s: {what}") from None


async def take(events: AsyncIterator[_T], count: int) -> list[_T]:
    """The next `count` of `events`."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [await anext(events) for _ in range(count)]


async def rest(events: AsyncIterator[_T]) -> list[_T]:
    """All of `events`, which have to end."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [event async for event in events]
