"""A connection that is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import re

import pytest

from broker.errors import Unavailable
from broker.stores.redis.address import parse
from broker.stores.redis.connector import FIRST_WAIT_SECONDS, reconnect_backoff, unavailable
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.watermark import Watermark
from broker.stores.stats import CallMeasures
from tests.stores.conftest import StartServer
from tests.stores.fake_server import INFO, Answer, StartFake, StartPipeline, bulk, echo, greet
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS


async def test_a_malformed_reply_costs_only_the_connection(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    server = await start_fake(
        lambda command: (
            (b"!?\r\n" if server.connections == 1 else b"*1\r\n$3\r\n5-0\r\n")
            if command[0] == b"EVALSHA"
            else greet(command)
        )
    )
    pipeline = start_pipeline(server.url)
    assert await echo(pipeline, b"x") == [b"5-0"]
    assert server.connections == 2


async def test_the_back_off_grows_if_the_server_closes_at_each_call(
    start_fake: StartFake, start_pipeline: StartPipeline
) -> None:
    server = await start_fake(lambda command: b"" if command[0] == b"EVALSHA" else greet(command))
    pipeline = start_pipeline(server.url)
    with pytest.raises(Unavailable):
        await echo(pipeline, b"x", seconds=2)
    assert server.connections < 15


def test_instances_that_lose_the_server_together_do_not_return_together() -> None:
    waits = {reconnect_backoff().next() for _ in range(100)}
    assert len(waits) > 90
    assert max(waits) <= max(FIRST_WAIT_SECONDS)


async def test_stopping_while_a_connection_is_being_made_leaves_nothing_open(
    start_server: StartServer, start_pipeline: StartPipeline
) -> None:
    """A connection left open would cause a ResourceWarning, which fails the test."""
    server = start_server("requirepass secret")
    server.pause()
    start_pipeline(f"unix://:secret@{server.path}")
    await asyncio.sleep(0.1)


def cluster_node(command: list[bytes]) -> bytes:
    """A node of a cluster that has other slots than ours."""
    if command[0] == b"INFO":
        return bulk(INFO + b"cluster_enabled:1\r\n")
    if command[0] in (b"EXISTS", b"EVALSHA", b"EVAL"):
        return b"-MOVED 3999 10.9.8.7:6381\r\n"
    return greet(command)


async def test_a_cluster_is_refused_in_plain_words(
    start_fake: StartFake, start_pipeline: StartPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_fake(cluster_node)
    pipeline = start_pipeline(server.url)
    with pytest.raises(Unavailable, match="Redis Cluster, which isn't supported"):
        await pipeline.connector.wait_connected()
    assert pipeline.connector.refused
    assert not any(command.startswith(b"EVAL") for command in server.commands)


async def test_a_slot_that_moves_away_later_is_a_problem_too(
    start_fake: StartFake, start_pipeline: StartPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    has_moved = False

    def node(command: list[bytes]) -> bytes:
        if has_moved:
            return cluster_node(command)
        if command[0] == b"EVALSHA":
            return b"*2\r\n$3\r\n5-0\r\n$1\r\nx\r\n"
        return b":0\r\n" if command[0] == b"EXISTS" else cluster_node(command)

    pipeline = start_pipeline((await start_fake(node)).url)
    assert (await echo(pipeline, b"x"))[1] == b"x"
    has_moved = True
    with pytest.raises(Unavailable) as caught:
        await echo(pipeline, b"x", seconds=1)
    assert "Redis Cluster, which isn't supported" in caught.value.detail
    assert "10.9.8.7" not in caught.value.detail
    assert "Redis Cluster" in pipeline.connector.problem
    assert "MOVED 3999 10.9.8.7:6381" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        cluster_node,
        lambda command: b"-ERR x\r\n",
        lambda command: b"" if command[0] == b"INFO" else greet(command),
    ],
    ids=["refused", "error", "closed"],
)
async def test_stopping_at_any_moment_of_an_attempt_that_fails_stops(
    start_fake: StartFake, answer: Answer
) -> None:
    """In Python 3.11 `asyncio.wait_for`, which redis-py uses, can lose a cancellation."""
    server = await start_fake(answer)
    for turns in range(100):
        pipeline = ScriptPipeline(
            parse(server.url),
            Watermark(),
            CallMeasures(),
            margin_ms=0,
            topic_memory_ms=0,
            wait_replicas=0,
            key="k",
        )
        running = asyncio.create_task(pipeline.connector.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.wait([running])
        assert running.cancelled(), f"after {turns} turns"


async def test_public_answers_dont_name_the_server(
    start_fake: StartFake, start_pipeline: StartPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither before the first connection nor for an error of the server that names an address."""
    port = free_port()
    refusing = start_pipeline(f"redis://localhost:{port}/0")
    error = b"-LOADING of 10.9.8.7:6381\r\n"
    loading = await start_fake(lambda command: error if command[0] == b"EVALSHA" else greet(command))
    for pipeline, logged in ((refusing, str(port)), (start_pipeline(loading.url), "10.9.8.7")):
        with pytest.raises(Unavailable) as caught:
            await echo(pipeline, b"x", seconds=1)
        for text in (caught.value.detail, pipeline.connector.problem):
            assert not re.search(r"localhost|127\.0\.0\.1|10\.9\.8\.7|\d{4}", text), text
        assert logged in caplog.text, "the operator sees it"


def test_an_error_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    assert "lost. Try again" in unavailable("Connection lost.").detail
