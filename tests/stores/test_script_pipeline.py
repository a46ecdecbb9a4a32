"""The calls of scripts, against servers that misbehave: what is held, what is answered, what is said in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest

from broker.errors import Unavailable
from broker.stores.redis.address import parse
from broker.stores.redis.link import LinkLost, open_link
from broker.stores.redis.script_pipeline import MAX_PENDING_BYTES, ScriptPipeline
from broker.stores.redis.scripts import Script
from broker.stores.redis.watermark import Watermark
from tests.stores.conftest import StartServer
from tests.support.redis_servers import Server
from tests.support.store_harness import script_of
from tests.support.waiting import until

INFO = b"role:master\r\nrun_id:1234\r\nloading:0\r\n"
KILOBYTE = b"x" * 1024
SAYS = script_of("says", "return {'5-0', ARGV[5]}")

Answer = Callable[[list[bytes]], bytes | None]
"""What a server answers to a command; None for nothing, ever."""


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def greets(command: list[bytes]) -> bytes:
    """The answer of a server as long as it has not been called yet."""
    if command[0] == b"INFO":
        return bulk(INFO)
    if command[:2] == [b"CLIENT", b"ID"]:
        return b":7\r\n"
    return b"+OK\r\n"


class FakeServer:
    """Answers each command as it is told to; afterwards `after`, a pause."""

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


@pytest.fixture
async def start_fake(tmp_path: Path) -> AsyncIterator[StartFake]:
    servers: list[FakeServer] = []

    async def start(answer: Answer) -> FakeServer:
        server = FakeServer(tmp_path / f"fake{len(servers)}", answer)
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def start_pipeline() -> AsyncIterator[StartPipeline]:
    """Calls to a URL, kept by a task that is cancelled after the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(url: str, *, wait_replicas: int = 0) -> ScriptPipeline:
        pipeline = ScriptPipeline(
            parse(url),
            Watermark(),
            margin_ms=10_000,
            topic_memory_ms=1000,
            wait_replicas=wait_replicas,
        )
        tasks.append(asyncio.create_task(pipeline.run()))
        return pipeline

    yield start
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def say(pipeline: ScriptPipeline, what: bytes, **options: Any) -> Any:
    return await pipeline.call(SAYS, [], [what], **options)


# What is held (I4)


async def test_i4_abandoned_calls_are_dropped(tmp_path: Path, start_pipeline: StartPipeline) -> None:
    """A server may be gone for a day, and each publisher waits for seconds only."""
    pipeline = start_pipeline(f"unix://{tmp_path / 'nobody'}")
    for _ in range(20):
        with pytest.raises(Unavailable):
            await say(pipeline, KILOBYTE, seconds=0.01)
    assert len(pipeline._unsent) == 0
    assert pipeline._pending_bytes == 0


async def test_i4_a_sent_call_counts_until_its_reply(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    """A server that takes little keeps the rest in our buffers, however soon its publishers give up."""
    server = await start_fake(lambda command: None if command[0] == b"EVALSHA" else greets(command))
    pipeline = start_pipeline(server.url)
    await pipeline.connector.wait_connected()
    with pytest.raises(Unavailable):
        await say(pipeline, KILOBYTE, seconds=0.01)
    assert pipeline._pending_bytes >= 1024
    with pytest.raises(Unavailable, match="can't keep up"):
        await say(pipeline, b"x" * MAX_PENDING_BYTES)
    await until(lambda: pipeline._pending_bytes == 0, "the connection is given up")


async def test_pending_bytes_return_to_zero(start_server: StartServer, start_pipeline: StartPipeline) -> None:
    server = start_server()
    pipeline = start_pipeline(server.url)
    with server.client() as client:
        for _ in range(5):
            client.script_flush()
            answers = asyncio.gather(*(say(pipeline, b"%d" % number) for number in range(20)))
            await asyncio.sleep(0)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            assert [answer[1] for answer in await answers] == [b"%d" % number for number in range(20)]
    assert (pipeline._pending_bytes, len(pipeline._unsent), len(pipeline._sent)) == (0, 0, 0)


# Replicas


async def test_a_script_sent_again_by_text_waits_for_the_replicas(
    start_server: StartServer, start_pipeline: StartPipeline
) -> None:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    pipeline = start_pipeline(primary.url, wait_replicas=1)
    with primary.client() as client:
        for _ in range(3):
            client.script_flush()
            answers = await asyncio.gather(*(say(pipeline, b"%d" % n, is_write=True) for n in range(5)))
            assert [answer[1] for answer in answers] == [b"%d" % n for n in range(5)]


async def test_an_answer_of_a_lost_connection_is_dropped(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    """The next server lacks the script; that its replicas are well says nothing of what it hasn't done yet."""

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"WAIT":
            return b"" if server.connections == 1 else b":1\r\n"
        if command[0] == b"EVALSHA" and server.connections > 1:
            return b"-NOSCRIPT No matching script.\r\n"
        if command[0] == b"EVAL":
            return b"-NOREPLICAS no good\r\n"
        return b"*2\r\n" + bulk(b"5-0") + bulk(b"old") if command[0] == b"EVALSHA" else greets(command)

    server = await start_fake(answer)
    pipeline = start_pipeline(server.url, wait_replicas=1)
    with pytest.raises(Unavailable):
        await say(pipeline, b"x", is_write=True)
    assert b"EVAL" in server.commands


async def test_too_few_replicas_is_an_error(start_server: StartServer, start_pipeline: StartPipeline) -> None:
    pipeline = start_pipeline(start_server().url, wait_replicas=1)
    with pytest.raises(Unavailable, match="fewer than 1 replicas"):
        await say(pipeline, b"x", is_write=True)
    assert (await say(pipeline, b"x"))[1] == b"x", "to read needs none"


# Whom we talk to


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$-1\r\n",
        b":5\r\n",
        b"*1\r\n$1\r\nx\r\n",
        bulk(b"role:master\r\n"),
        bulk(b"\xff\xfe"),
        bulk(b""),
    ],
)
async def test_a_server_that_is_not_redis_is_a_lost_link(start_fake: StartFake, answer: bytes) -> None:
    server = await start_fake(lambda command: answer if command[0] == b"INFO" else greets(command))
    with pytest.raises(LinkLost):
        await open_link(parse(server.url))


async def test_a_malformed_reply_costs_only_the_connection(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    server = await start_fake(
        lambda command: (
            (b"!?\r\n" if server.connections == 1 else b"*1\r\n$3\r\n5-0\r\n")
            if command[0] == b"EVALSHA"
            else greets(command)
        )
    )
    pipeline = start_pipeline(server.url)
    assert await say(pipeline, b"x") == [b"5-0"]
    assert server.connections == 2


async def test_the_back_off_grows_if_the_server_closes_at_each_call(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    server = await start_fake(lambda command: b"" if command[0] == b"EVALSHA" else greets(command))
    pipeline = start_pipeline(server.url)
    with pytest.raises(Unavailable):
        await say(pipeline, b"x", seconds=2)
    assert server.connections < 15


async def test_repeated_refusals_are_logged_once(
    start_server: StartServer, start_pipeline: StartPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = start_pipeline(start_server().url)
    broken = Script("broken", "return redis.call('GET')", script_of("", "return redis.call('GET')").sha)
    with caplog.at_level(logging.ERROR):
        for _ in range(10):
            with pytest.raises(Unavailable, match="it refuses this call"):
                await pipeline.call(broken, [], [])
    assert len([record for record in caplog.records if "refuses broken" in record.getMessage()]) == 1


async def test_writing_to_a_lost_connection_does_no_harm(start_server: StartServer) -> None:
    server: Server = start_server()
    link = await open_link(parse(server.url))
    server.kill()
    with pytest.raises(LinkLost):
        await link.read(lambda _reply: None)
    link.abort()
    await asyncio.sleep(0.01)
    link.write(b"PING\r\n")
    await link.close()


async def test_stopping_while_a_connection_is_being_made_leaves_nothing_open(
    start_server: StartServer, start_pipeline: StartPipeline
) -> None:
    """An open connection that nobody refers to is warned of, which fails a test."""
    server = start_server("requirepass secret")
    server.pause()
    start_pipeline(f"unix://:secret@{server.path}")
    await asyncio.sleep(0.1)
