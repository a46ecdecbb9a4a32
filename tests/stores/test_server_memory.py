"""The memory of a real server, as an instance reads it and warns of it."""

from __future__ import annotations

import logging

import pytest

from broker.stores.redis.server_memory import ServerMemory
from tests.stores.fake_server import StartPipeline
from tests.support.redis_servers import Server


async def test_the_operator_is_warned_once_each_time_that_memory_gets_short(
    shared_server: Server, start_pipeline: StartPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "broker")
    memory = ServerMemory(start_pipeline(shared_server.url))
    with shared_server.client() as client:
        try:
            await memory.read()
            assert (memory.limit, caplog.messages) == (0, [])
            used = memory.used
            assert 0 < used < 1 << 30
            for limit in (used * 10, used, used, used * 10, used):
                client.config_set("maxmemory", limit)
                await memory.read()
                assert memory.limit == limit
        finally:
            client.config_set("maxmemory", 0)
    assert len(caplog.messages) == 2
    assert f"of {used} bytes" in caplog.messages[0]
