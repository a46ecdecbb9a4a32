"""Each store in turn, and what it delivers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import sse
from tests.stores.conftest import PROGRAMS, find_program
from tests.support.redis_servers import Server
from tests.support.store_harness import MemoryStoreHarness, RedisStoreHarness, StoreHarness


def item(topic: str, data: str) -> tuple[str, bytes]:
    return topic, sse.lines(data.encode())


class Delivered:
    """What a store delivered, as (topic, bytes)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, topic: str, size: int) -> bool:
        self.calls.append((topic, size))
        return True


@pytest.fixture
def delivered() -> Delivered:
    return Delivered()


@pytest.fixture
def heeded() -> list[str]:
    return []


@pytest.fixture(params=["memory", *PROGRAMS])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, delivered: Delivered, heeded: list[str]
) -> AsyncIterator[StoreHarness]:
    """Each store in turn, with a small retention."""
    if request.param == "memory":
        memory = MemoryStoreHarness()
        await memory.store.start(delivered, heeded.append)
        yield memory
        await memory.store.stop()
        return
    with Server(tmp_path / "0", find_program(request.param)) as server:
        redis = RedisStoreHarness(server)
        await redis.store.start(delivered, heeded.append)
        yield redis
        await redis.store.stop()
        redis.close()
