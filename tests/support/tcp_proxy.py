"""Servers in the test's own loop, and proxies that fail in the ways in which networks fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Literal, Self

from tests.support.http import HOST

Direction = Literal["up", "down"]
Cuts = Sequence[tuple[Direction, int]]
Carry = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Direction], Coroutine[None, None, None]]


class Listening:
    """A server; an async context manager."""

    scheme = "http"

    def __init__(self) -> None:
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"{self.scheme}://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(
            asyncio.CancelledError
        ):  # asyncio logs the cancellation of such a task as an error
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Proxy(Listening):
    """Passes connections on; an async context manager.

    Attributes:
        connections: how many there have been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        carry = self._carrier()
        writers = {writer}
        self._open.add(writer)  # `cut` also cuts a connection that has not reached the server yet
        tasks: list[asyncio.Task[None]] = []
        try:
            far_reader, far_writer = await self._connect()
            writers.add(far_writer)
            self._open.add(far_writer)
            tasks = [
                asyncio.create_task(carry(reader, far_writer, "up")),
                asyncio.create_task(carry(far_reader, writer, "down")),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is down: the connection ends too
        finally:
            for task in tasks:
                task.cancel()
            for one in writers:
                one.transport.abort()
            self._open -= writers
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server."""
        raise NotImplementedError

    def cut(self) -> None:
        """Cut all connections; bytes on their way are lost."""
        for writer in self._open:
            writer.transport.abort()

    def _carrier(self) -> Carry:
        """The function that carries the bytes of the next connection in one direction; when it returns, the connection is cut."""
        raise NotImplementedError


class TcpProxy(Proxy):
    """Passes connections on to `port`; an async context manager.

    Attributes:
        swallow: while true, responses are dropped; requests still arrive.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self.swallow = False
        self._port = port

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self._port)

    def _carrier(self) -> Carry:
        return self._carry

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not (direction == "down" and self.swallow):
                    target.write(data)
                    await target.drain()


class PatientProxy(TcpProxy):
    """Passes connections on to `port`. While the server is down, clients wait in the proxy; an async context manager."""

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await super()._connect()
            await asyncio.sleep(0.01)


class CuttingProxy(TcpProxy):
    """Passes connections on to `port`; an async context manager.

    `cuts`: the n-th connection is cut after so many bytes in a direction; later connections are not cut.
    """

    def __init__(self, port: int, cuts: Cuts) -> None:
        super().__init__(port)
        self._cuts = deque(cuts)

    def _carrier(self) -> Carry:
        cut_direction, cut_after = self._cuts.popleft() if self._cuts else ("up", -1)

        async def carry(
            source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
        ) -> None:
            left = cut_after if direction == cut_direction else -1
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if left >= 0:
                        data = data[:left]
                        left -= len(data)
                    target.write(data)
                    await target.drain()
                    if left == 0:
                        return
                if left < 0:
                    target.write_eof()
                    await asyncio.Event().wait()  # the other direction continues

        return carry
