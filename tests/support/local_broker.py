"""A broker in the test's own loop: the whole application, on a loopback port."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import time

from aiohttp import web

from broker.node.node import Node
from broker.process.app import create_app
from broker.process.listening import SEND_BUFFER_BYTES, Listening
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.front.front import Front
from broker.web.runner import Runner
from broker.web.services import Services
from tests.support.event_stream import AsyncStream
from tests.support.http import HOST, Answer, close, read_answer


class Clock:
    """A time that only a test moves."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time() if now is None else now

    def __call__(self) -> float:
        return self.now


class Server:
    """A broker on a free loopback port.

    Args:
        by_aiohttp: serve the application by aiohttp alone, as a caller of `create_app` may.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        access_log: logging.Logger | None = None,
        *,
        by_aiohttp: bool = False,
    ) -> None:
        app = create_app(settings, clock=clock)
        self._runner: web.AppRunner = (
            web.AppRunner(app, shutdown_timeout=1, auto_decompress=False)
            if by_aiohttp
            else Runner(
                app, access_log=access_log, shutdown_timeout=1, max_head_bytes=settings.max_head_bytes
            )
        )
        self._open: list[asyncio.StreamWriter] = []
        self._socket: socket.socket | None = None
        self._listening: Listening | None = None
        self.port = 0

    async def start(self) -> None:
        await self._runner.setup()
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        if not isinstance(self._runner, Runner):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            await web.SockSite(self._runner, self._socket).start()
            return
        self._listening = Listening(self.front, [self._socket], trusted_proxies=None, head_seconds=5)
        await self._listening.start()

    async def stop(self) -> None:
        for writer in self._open:
            await close(writer)
        if self._listening is not None:
            self._listening.stop()
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()

    @property
    def services(self) -> Services:
        return self._runner.app[SERVICES]

    @property
    def node(self) -> Node:
        return self.services.node

    def subscribers_of(self, topic: str) -> int:
        """How many are subscribed to a topic here."""
        return self.node.streams.hub.feeds.count(topic)

    @property
    def is_front(self) -> bool:
        """Whether the front serves, and not aiohttp."""
        return isinstance(self._runner, Runner)

    @property
    def front(self) -> Front:
        """The front that serves."""
        assert isinstance(self._runner, Runner)
        assert self._runner.front is not None
        return self._runner.front

    @property
    def requesting(self) -> int:
        """How many connections are open that are not streams."""
        return len(self.front.connections) + len(self.front.lingering)

    @property
    def unread(self) -> int:
        """How many connections have an answer that their client is slow to read."""
        return sum(not connection._is_writable for connection in self.front.connections)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def send(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection, with `request` sent."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        self._open.append(writer)
        writer.write(request)
        await writer.drain()
        return reader, writer

    async def request(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Answer:
        """One request on a connection of its own; `_` in a header's name is sent as `-`."""
        fields = {
            "host": f"{HOST}:{self.port}",
            "connection": "close",
            "content-length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        reader, writer = await self.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answer = await read_answer(reader, has_body=method != "HEAD")
        await close(writer)
        return answer

    async def publish(self, topic: str, data: str, query: str = "", **headers: str) -> str:
        """Publish one event; its id."""
        answer = await self.request("POST", f"/topics/{topic}{query}", data.encode(), **headers)
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    async def subscribe(self, target: str, **headers: str) -> AsyncStream:
        """Open a stream; `target` such as `/topics/news?since=earliest`."""
        fields = {"host": f"{HOST}:{self.port}", "accept": "text/event-stream", **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        stream = AsyncStream(*await self.send(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode()))
        await stream.until(lambda: stream.status)
        return stream


Serve = Callable[..., Awaitable[Server]]
"""Starts a broker with the settings given."""


@asynccontextmanager
async def serving(
    clock: Callable[[], float], access_log: logging.Logger | None = None, *, by_aiohttp: bool = False
) -> AsyncIterator[Serve]:
    """Starts brokers with the settings given, as `Server` takes the rest; all have ended afterwards."""
    servers: list[Server] = []

    async def start(**settings: object) -> Server:
        server = Server(Settings.model_validate(settings), clock, access_log, by_aiohttp=by_aiohttp)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()
