"""Commands to all instances, including those that are disconnected at the moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from time import time

import pytest

from broker.errors import RateLimited
from broker.stores.redis import broadcast
from tests.stores.watched_calls import WatchedCalls
from tests.support.redis_servers import Server
from tests.support.store_harness import RecordingOwner, RedisStoreHarness
from tests.support.waiting import until


class Instance:
    """A store, and the commands that its owner got."""

    def __init__(self, server: Server) -> None:
        self.harness = RedisStoreHarness(server)
        self.owner = RecordingOwner()

    async def start(self) -> None:
        await self.harness.store.start(self.owner)
        await until(lambda: self.harness.store.checks()["notices"] == "ok", "the kept commands are read")

    async def send(self, command: str, until: float | None = None) -> None:
        await self.harness.store.broadcast.send(command, until)


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
    await one.send("a")
    await one.send("b", time() + 60)
    await until(lambda: other.owner.commands == ["a", "b"], "both arrive")
    assert one.owner.commands == ["a", "b"]


async def test_a_later_instance_gets_the_kept_commands(start_instance: StartInstance) -> None:
    one = await start_instance()
    await one.send("passing")
    await one.send("over", time() - 1)
    await one.send("kept", time() + 60)
    assert (await start_instance()).owner.commands == ["kept"]


async def test_a_disconnected_instance_gets_the_kept_commands(
    start_instance: StartInstance, shared_server: Server
) -> None:
    one, other = await start_instance(), await start_instance()
    with shared_server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await one.send("kept", time() + 60)
    await until(lambda: other.owner.commands == ["kept"], "it arrives")
    assert one.owner.commands == ["kept"]


async def test_a_kept_command_is_written_again_after_a_loss(
    start_instance: StartInstance, shared_server: Server
) -> None:
    one = await start_instance()
    await one.send("kept", time() + 60)
    with shared_server.client() as client:
        client.flushall()
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: client.zcard("broker:{b}:notices") == 1, "it is there again")
    assert (await start_instance()).owner.commands == ["kept"]
    assert one.owner.commands == ["kept"]


async def test_kept_commands_are_written_again_together(
    start_instance: StartInstance, shared_server: Server
) -> None:
    """An instance isn't ready before."""
    one = await start_instance()
    sent = [f"c{number}" for number in range(30)]
    for command in sent:
        await one.send(command, time() + 60)
    store = one.harness.store.broadcast
    calls = WatchedCalls(store._pipeline)
    store._pipeline = calls  # type: ignore[assignment]
    with shared_server.client() as client:
        client.flushall()
    await store.read_kept()
    assert calls.most_waiting == len(sent)
    assert sorted((await start_instance()).owner.commands) == sorted(sent)


async def test_kept_commands_are_bounded(
    start_instance: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start_instance()
    monkeypatch.setattr(broadcast, "MAX_KEPT", 2)
    await one.send("a", time() + 60)
    await one.send("b", time() - 60)
    await one.send("c", time() + 60)
    with pytest.raises(RateLimited):
        await one.send("d", time() + 60)
    assert one.owner.commands == ["a", "b", "c"]


async def test_a_command_is_sent_and_kept_if_the_servers_memory_is_full(
    start_instance: StartInstance, shared_server: Server
) -> None:
    """Otherwise a client could delay its own revocation by filling it."""
    one, other = await start_instance(), await start_instance()
    with shared_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            await one.send("passing")
            await one.send("kept", time() + 60)
            await until(lambda: other.owner.commands == ["passing", "kept"], "both arrive")
            assert (await start_instance()).owner.commands == ["kept"]
            client.delete("broker:{b}:notices")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: client.zcard("broker:{b}:notices") == 1, "it is kept again")
        finally:
            client.config_set("maxmemory", 0)
