"""A server that answers each command as the test says, and calls of a pipeline to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis

from broker.stores.redis.script_pipeline import ScriptPipeline
from tests.support.store_harness import script_of

INFO = b"role:master\r\nrun_id:1234\r\nloading:0\r\n"
ECHO = script_of("echo", "return {'5-0', ARGV[5]}")

Answer = Callable[[list[bytes]], bytes | None]
"""The bytes of an answer; None for no answer, empty to close the connection."""


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def greet(command: list[bytes]) -> bytes:
    """The answers to the commands of a new connection."""
    if command[0] == b"INFO":
        return bulk(INFO)
    if command[:2] == [b"CLIENT", b"ID"]:
        return b":7\r\n"
    return b"+OK\r\n"


class FakeServer:
    """Answers each command by `answer`.

    Attributes:
        connections: how many there were.
        commands: the names of all commands.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self.url = f"unix://{path}"
        self.connections = 0
        self.commands: list[bytes] = []
        self._path = path
        self._answer = answer
        self._listener: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._listener = await asyncio.start_unix_server(self._accept, self._path)

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(1 << 16):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.commands.append(command[0])
                answer = self._answer(command)
                if answer == b"":
                    writer.transport.abort()
                    return
                if answer is not None:
                    writer.write(answer)


StartFake = Callable[[Answer], Awaitable[FakeServer]]
StartPipeline = Callable[..., ScriptPipeline]


async def echo(pipeline: ScriptPipeline, text: bytes, **options: Any) -> Any:
    return await pipeline.call(ECHO, [], [text], **options)
