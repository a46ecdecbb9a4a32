"""A proxy between brokers and a Redis server, which fails in the ways that a network fails."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.redis_servers import LOOPBACK, Server


@dataclass(eq=False)
class _Passage:
    """One connection; `is_subscriber` once it has sent SUBSCRIBE."""

    writers: list[asyncio.StreamWriter]
    is_subscriber: bool = False
    is_silent: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class RedisProxy:
    """Passes connections on to the unix socket of `server`; an async context manager."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._passages: set[_Passage] = set()
        self._listener: asyncio.Server | None = None
        self._is_closed = False
        self._left: int | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"redis://{LOOPBACK}:{port}/0"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        tasks = [task for passage in self._passages for task in passage.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def redirect(self, server: Server) -> None:
        """End all connections, and pass new ones on to another server."""
        self._server = server
        self.cut()

    def close(self) -> None:
        """End all connections, and take no new ones until `open`."""
        self._is_closed = True
        self.cut()

    def open(self) -> None:
        self._is_closed = False

    def cut_after(self, size: int) -> None:
        """End all connections when `size` more bytes, in whichever direction, have passed; these still arrive."""
        self._left = size

    def cut(self) -> None:
        """End all connections."""
        for passage in self._passages:
            for writer in passage.writers:
                writer.transport.abort()

    def close_gently(self) -> None:
        """End all connections once all bytes passed on have left."""
        for passage in self._passages:
            for writer in passage.writers:
                writer.close()

    def silence_subscribers(self) -> None:
        """Drop everything sent to connections that have subscribed; they stay open."""
        for passage in self._passages:
            passage.is_silent = passage.is_subscriber

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_closed:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._server.path))
        except OSError:
            writer.transport.abort()
            return
        passage = _Passage([writer, far_writer])
        passage.tasks = [
            asyncio.ensure_future(self._carry(passage, reader, far_writer, to_server=True)),
            asyncio.ensure_future(self._carry(passage, far_reader, writer, to_server=False)),
        ]
        self._passages.add(passage)
        await asyncio.wait(passage.tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in passage.writers:
            one.transport.abort()
        self._passages.discard(passage)

    async def _carry(
        self,
        passage: _Passage,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        to_server: bool,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if to_server and b"SUBSCRIBE" in data:
                    passage.is_subscriber = True
                if passage.is_silent:
                    continue
                if self._left is not None and len(data) >= self._left:
                    writer.write(data[: self._left])
                    await writer.drain()
                    self._left = None
                    self.close_gently()
                    return
                if self._left is not None:
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
