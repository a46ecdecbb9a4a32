"""A connection that is made again whenever it is lost."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import Unavailable
from broker.stores.redis.connector import FIRST_WAIT_SECONDS, reconnect_backoff, unavailable
from tests.stores.conftest import StartServer
from tests.stores.fake_server import StartFake, StartPipeline, echo, greet


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


def test_an_error_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    assert "lost. Try again" in unavailable("Connection lost.").detail
