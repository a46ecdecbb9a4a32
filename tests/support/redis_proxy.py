"""A proxy between brokers and a Redis server, which fails in the ways in which networks fail."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from tests.support.redis_servers import Server
from tests.support.tcp_proxy import Carry, Direction, Proxy


class _Passage:
    """One connection; `is_subscriber` once it has sent SUBSCRIBE."""

    is_subscriber = False
    is_silent = False


class RedisProxy(Proxy):
    """Passes connections on to the unix socket of `server`; an async context manager."""

    scheme = "redis"

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._far = server
        self._passages: list[_Passage] = []
        self._is_closed = False
        self._left: int | None = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._is_closed:
            raise ConnectionRefusedError
        return await asyncio.open_unix_connection(str(self._far.path))

    def lead_to(self, server: Server) -> None:
        """Pass new connections on to another server; present ones stay."""
        self._far = server

    def redirect(self, server: Server) -> None:
        """End all connections, and pass new ones on to another server."""
        self.lead_to(server)
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

    def close_gently(self) -> None:
        """End all connections once all bytes passed on have left."""
        for writer in self._open:
            writer.close()

    def silence_subscribers(self) -> None:
        """Drop everything sent to connections that have subscribed; they stay open."""
        for passage in self._passages:
            passage.is_silent = passage.is_subscriber

    def _carrier(self) -> Carry:
        self._passages.append(_Passage())
        return partial(self._carry, self._passages[-1])

    async def _carry(
        self,
        passage: _Passage,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if direction == "up" and b"SUBSCRIBE" in data:
                    passage.is_subscriber = True
                if passage.is_silent:
                    continue
                if self._left is not None and len(data) >= self._left:
                    target.write(data[: self._left])
                    await target.drain()
                    self._left = None
                    self.close_gently()
                    return
                if self._left is not None:
                    self._left -= len(data)
                target.write(data)
                await target.drain()
