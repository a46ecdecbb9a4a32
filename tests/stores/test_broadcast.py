"""What one instance tells all, whoever can't hear it at the moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from time import time

import pytest

from broker.errors import RateLimited
from broker.stores.redis import broadcast
from tests.support.redis_servers import Server
from tests.support.store_harness import RecordingOwner, RedisStoreHarness
from tests.support.waiting import until


class Instance:
    """A store, and what it was told."""

    def __init__(self, server: Server) -> None:
        self.harness = RedisStoreHarness(server)
        self.owner = RecordingOwner()

    async def start(self) -> None:
        await self.harness.store.start(self.owner)
        await until(lambda: self.harness.store.checks()["notices"] == "ok", "the notices are read")

    async def tell(self, notice: str, until: float | None = None) -> None:
        await self.harness.store.broadcast.send(notice, until)


StartInstance = Callable[[], Awaitable[Instance]]


@pytest.fixture
async def start_instance(empty_server: Server) -> AsyncIterator[StartInstance]:
    started: list[Instance] = []

    async def start() -> Instance:
        instance = Instance(empty_server)
        started.append(instance)
        await instance.start()
        return instance

    yield start
    for instance in started:
        await instance.harness.store.stop()
        instance.harness.close()


async def test_all_instances_get_a_command_once(start_instance: StartInstance) -> None:
    one, other = await start_instance(), await start_instance()
    await one.tell("a")
    await one.tell("b", time() + 60)
    await until(lambda: other.owner.commands == ["a", "b"], "both are heeded")
    assert one.owner.commands == ["a", "b"]


async def test_a_later_instance_gets_the_kept_commands(start_instance: StartInstance) -> None:
    one = await start_instance()
    await one.tell("passing")
    await one.tell("over", time() - 1)
    await one.tell("kept", time() + 60)
    assert (await start_instance()).owner.commands == ["kept"]


async def test_a_disconnected_instance_gets_the_kept_commands(
    start_instance: StartInstance, shared_server: Server
) -> None:
    one, other = await start_instance(), await start_instance()
    with shared_server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await one.tell("kept", time() + 60)
    await until(lambda: other.owner.commands == ["kept"], "it is heeded")
    assert one.owner.commands == ["kept"]


async def test_a_kept_command_is_written_again_after_a_loss(
    start_instance: StartInstance, shared_server: Server
) -> None:
    one = await start_instance()
    await one.tell("kept", time() + 60)
    with shared_server.client() as client:
        client.flushall()
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: client.zcard("broker:{b}:notices") == 1, "it is there again")
    assert (await start_instance()).owner.commands == ["kept"]
    assert one.owner.commands == ["kept"]


async def test_kept_commands_are_bounded(
    start_instance: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start_instance()
    monkeypatch.setattr(broadcast, "MAX_KEPT", 2)
    await one.tell("a", time() + 60)
    await one.tell("b", time() - 60)
    await one.tell("c", time() + 60)
    with pytest.raises(RateLimited):
        await one.tell("d", time() + 60)
    assert one.owner.commands == ["a", "b", "c"]
