"""The whole application in the test's own loop, and a raw client for its streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import time

from aiohttp import web

from broker.events import Event
from broker.node.node import Node
from broker.process.app import create_app
from broker.settings import Settings
from broker.sse import Decoder
from broker.web.app_keys import NODE
from broker.web.runner import Runner

WAIT_SECONDS = 10


class Clock:
    """A time that only a test moves."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time() if now is None else now

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class Stream:
    """An open stream: what came of it, raw and decoded.

    Attributes:
        raw: all bytes after the head.
        events: all of it that are events.
    """

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    raw: bytes = b""
    events: list[Event] = field(default_factory=list)
    decoder: Decoder = field(default_factory=Decoder)

    async def more(self) -> bool:
        """Read what comes next; False at the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            data = await self.reader.read(1 << 20)
        self.raw += data
        self.events += self.decoder.feed(data)
        return bool(data)

    async def until(self, condition: Callable[[], object]) -> None:
        """Read on until `condition()` holds; fail at the end of the stream or after a while."""
        while not condition():
            assert await self.more(), f"the stream ended: {self.raw[-500:]!r}"

    async def event(self, count: int) -> Event:
        """The `count`-th event, from 1; read on until it is there."""
        await self.until(lambda: len(self.events) >= count)
        return self.events[count - 1]

    async def data(self, count: int) -> list[str]:
        """The data of the first `count` events that are not the broker's own."""
        await self.until(lambda: len(self.published()) >= count)
        return [event.data for event in self.published()]

    def published(self) -> list[Event]:
        """Those events that somebody published."""
        return [event for event in self.events if not (event.type or "").startswith("broker.")]

    async def end(self) -> bytes:
        """Read to the end; all bytes after the head."""
        while await self.more():
            pass
        return self.raw

    async def close(self) -> None:
        await close(self.writer)


class Server:
    """A broker on a free loopback port."""

    def __init__(
        self, settings: Settings, clock: Callable[[], float], access_log: logging.Logger | None = None
    ) -> None:
        app = create_app(settings, clock=clock)
        self._runner = Runner(app, access_log=access_log, shutdown_timeout=1)
        self._open: list[asyncio.StreamWriter] = []
        self.port = 0

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for writer in self._open:
            await close(writer)
        await self._runner.cleanup()

    @property
    def node(self) -> Node:
        return self._runner.app[NODE]

    def subscribers_of(self, topic: str) -> int:
        """How many are subscribed to a topic here."""
        return self.node._hub._feeds.count(topic)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def send(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection, with `request` sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.append(writer)
        writer.write(request)
        await writer.drain()
        return reader, writer

    async def request(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Answer:
        """One request on a connection of its own; `_` in a header's name is sent as `-`."""
        fields = {
            "host": f"127.0.0.1:{self.port}",
            "connection": "close",
            "content-length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        reader, writer = await self.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
        async with asyncio.timeout(WAIT_SECONDS):
            status, answered = await read_head(reader)
            length = int(answered.get("content-length", 0)) if method != "HEAD" else 0
            answer = Answer(status, answered, await reader.readexactly(length))
        await close(writer)
        return answer

    async def publish(self, topic: str, data: str, query: str = "", **headers: str) -> str:
        """Publish one event; its id."""
        answer = await self.request("POST", f"/topics/{topic}{query}", data.encode(), **headers)
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    async def subscribe(self, target: str, **headers: str) -> Stream:
        """Open a stream; `target` such as `/topics/news?since=earliest`."""
        fields = {"host": f"127.0.0.1:{self.port}", "accept": "text/event-stream", **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        reader, writer = await self.send(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(WAIT_SECONDS):
            status, answered = await read_head(reader)
        return Stream(status, answered, reader, writer)


Serve = Callable[..., Awaitable[Server]]
"""Starts a broker with the settings given."""


async def read_head(
    reader: asyncio.StreamReader, versions: tuple[bytes, ...] = (b"HTTP/1.1",)
) -> tuple[int, dict[str, str]]:
    """Status and headers, their names in lower case."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(versions), head
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop run until `condition()` holds; fail, naming `what`, after a while."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whoever was first to do so."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
