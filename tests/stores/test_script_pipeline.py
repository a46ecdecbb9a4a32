"""Calls of scripts, to servers that misbehave: their bounds, retries and log lines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path

import pytest

from broker.errors import Unavailable
from broker.stores.redis.link import Reply
from broker.stores.redis.script_pipeline import CALL_BYTES, MAX_PENDING_BYTES
from broker.stores.redis.scripts import Script
from tests.stores.conftest import StartServer
from tests.stores.fake_server import StartFake, StartPipeline, bulk, echo, greet
from tests.support.patience import timeouts
from tests.support.store_harness import script_of
from tests.support.waiting import until

KILOBYTE = b"x" * 1024


async def test_i4_abandoned_calls_are_dropped(tmp_path: Path, start_pipeline: StartPipeline) -> None:
    """A server may be gone for a day, while each publisher waits for seconds."""
    pipeline = start_pipeline(f"unix://{tmp_path / 'no-server'}")
    for _ in range(20):
        with pytest.raises(Unavailable):
            await echo(pipeline, KILOBYTE, seconds=0.01)
    assert len(pipeline._unsent) == 0
    assert pipeline.pending_bytes == 0


async def test_i4_a_sent_call_counts_until_its_reply(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    """If a server reads slowly, calls stay in our buffers even after their publishers have given up."""
    server = await start_fake(lambda command: None if command[0] == b"EVALSHA" else greet(command))
    pipeline = start_pipeline(server.url)
    await pipeline.connector.wait_connected()
    with pytest.raises(Unavailable):
        await echo(pipeline, KILOBYTE, seconds=0.01)
    assert pipeline.pending_bytes >= 1024
    with pytest.raises(Unavailable, match="can't keep up"):
        await echo(pipeline, b"x" * MAX_PENDING_BYTES)
    with timeouts(REPLY_TIMEOUT_SECONDS=0.2):
        await until(lambda: pipeline.pending_bytes == 0, "the connection is given up")


async def test_i4_calls_without_arguments_are_bounded_too(
    tmp_path: Path, start_pipeline: StartPipeline
) -> None:
    """Each takes memory until its time is up, however small it is."""
    pipeline = start_pipeline(f"unix://{tmp_path / 'no-server'}")
    most = MAX_PENDING_BYTES // CALL_BYTES
    calls: list[Awaitable[Reply]] = []
    with pytest.raises(Unavailable, match="can't keep up"):
        for _ in range(most):
            calls.append(pipeline.command("TIME"))  # noqa: PERF401 - some are made
    assert len(calls) > 0.9 * most
    waiting = asyncio.gather(*calls)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pipeline.pending_bytes == 0


async def test_pending_bytes_return_to_zero(start_server: StartServer, start_pipeline: StartPipeline) -> None:
    server = start_server()
    pipeline = start_pipeline(server.url)
    with server.client() as client:
        for _ in range(5):
            client.script_flush()
            answers = asyncio.gather(*(echo(pipeline, b"%d" % number) for number in range(20)))
            await asyncio.sleep(0)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            assert [answer[1] for answer in await answers] == [b"%d" % number for number in range(20)]
    assert (pipeline.pending_bytes, len(pipeline._unsent), len(pipeline._sent)) == (0, 0, 0)


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
            answers = await asyncio.gather(*(echo(pipeline, b"%d" % n, is_write=True) for n in range(5)))
            assert [answer[1] for answer in answers] == [b"%d" % n for n in range(5)]


async def test_an_answer_of_a_lost_connection_is_dropped(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    """The next server lacks the script: the reply to its WAIT doesn't confirm a call that has not run there."""

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"WAIT":
            return b"" if server.connections == 1 else b":1\r\n"
        if command[0] == b"EVALSHA" and server.connections > 1:
            return b"-NOSCRIPT No matching script.\r\n"
        if command[0] == b"EVAL":
            return b"-NOREPLICAS no good\r\n"
        return b"*2\r\n" + bulk(b"5-0") + bulk(b"old") if command[0] == b"EVALSHA" else greet(command)

    server = await start_fake(answer)
    pipeline = start_pipeline(server.url, wait_replicas=1)
    with pytest.raises(Unavailable):
        await echo(pipeline, b"x", is_write=True)
    assert b"EVAL" in server.commands


async def test_too_few_replicas_is_an_error(start_server: StartServer, start_pipeline: StartPipeline) -> None:
    pipeline = start_pipeline(start_server().url, wait_replicas=1)
    with timeouts(REPLICAS_MS=100), pytest.raises(Unavailable, match="fewer than 1 replicas"):
        await echo(pipeline, b"x", is_write=True)
    assert (await echo(pipeline, b"x"))[1] == b"x", "a read needs no replica"


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
