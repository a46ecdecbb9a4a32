"""Each store in turn, and its owner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import sse
from tests.stores.conftest import PROGRAMS, find_program
from tests.support.redis_servers import Server
from tests.support.store_harness import MemoryStoreHarness, RecordingOwner, RedisStoreHarness, StoreHarness


def item(topic: str, data: str) -> tuple[str, bytes]:
    return topic, sse.lines(data.encode())


@pytest.fixture
def owner() -> RecordingOwner:
    return RecordingOwner()


@pytest.fixture(params=["memory", *PROGRAMS])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, owner: RecordingOwner
) -> AsyncIterator[StoreHarness]:
    """Each store in turn, with a small retention."""
    if request.param == "memory":
        memory = MemoryStoreHarness()
        await memory.store.start(owner)
        yield memory
        await memory.store.stop()
        return
    with Server(tmp_path / "0", find_program(request.param)) as server:
        redis = RedisStoreHarness(server)
        await redis.store.start(owner)
        yield redis
        await redis.store.stop()
        redis.close()
