"""Commands to all instances, including those that are disconnected at the moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
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
        self.server = server
        self.harness = RedisStoreHarness(server)
        self.owner = RecordingOwner()

    async def start(self) -> None:
        await self.harness.store.start(self.owner)
        await until(lambda: self.harness.store.checks()["notices"] == "ok", "the kept commands are read")

    async def send(self, command: str, until: float | None = None, *, droppable: bool = False) -> None:
        await self.harness.store.broadcast.send(command, until, droppable=droppable)

    @property
    def kept(self) -> int:
        """How many commands it keeps."""
        store = self.harness.store.broadcast
        return len(store.lasting) + len(store.droppable)


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


async def test_kept_commands_are_bounded_in_bytes(
    start_instance: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start_instance()
    monkeypatch.setattr(broadcast, "MAX_KEPT_BYTES", 100)
    for number in range(9):
        await one.send(f"{number}" * 10, one.harness.now + 60)
    for _ in range(2):
        with pytest.raises(RateLimited):
            await one.send("x" * 11, one.harness.now + 60)
    await one.send("y" * 1000)
    await one.send("z" * 200, one.harness.now + 60, droppable=True)
    one.harness.advance(61)
    await one.send("x" * 100, one.harness.now + 60)


@pytest.mark.parametrize("droppable", [True, False])
async def test_i4_more_commands_expire_than_a_sweep_looks_at(
    start_instance: StartInstance, monkeypatch: pytest.MonkeyPatch, droppable: bool
) -> None:
    """As if a client cancelled producers at a high rate: its commands stay as many as are sent in their time."""
    monkeypatch.setattr(broadcast, "MAX_SWEEP", 5)
    one, other = await start_instance(), await start_instance()
    for second in range(30):
        for number in range(50):
            expiry = one.harness.now + 2
            await one.send(f"{second}-{number}", expiry, droppable=droppable)
        await until_received(other, 50 * (second + 1))
        for instance in (one, other):
            instance.harness.advance(1)
            instance.harness.store.broadcast.sweep()
            assert instance.kept <= 4 * 50


async def until_received(instance: Instance, count: int) -> None:
    await until(lambda: len(instance.owner.commands) == count, "all arrive")


async def test_i4_droppable_commands_take_no_room_from_others(
    start_instance: StartInstance, monkeypatch: pytest.MonkeyPatch, shared_server: Server
) -> None:
    """Otherwise a client that cancels producers could keep revocations out."""
    monkeypatch.setattr(broadcast, "MAX_KEPT", 5)
    monkeypatch.setattr(broadcast, "MAX_DROPPABLE", 3)
    one, other = await start_instance(), await start_instance()
    sent = [f"cancel {number}" for number in range(20)]
    for number, command in enumerate(sent):
        await one.send(command, time() + 10 + number, droppable=True)
    for number in range(5):
        await one.send(f"revoke {number}", time() + 60)
        sent.append(f"revoke {number}")
    with pytest.raises(RateLimited):
        await one.send("revoke 5", time() + 60)
    await one.send("cancel", time() + 60, droppable=True)
    sent.append("cancel")
    await until(lambda: other.owner.commands == sent, "all arrive")
    assert (one.kept, other.kept) == (8, 8)
    with shared_server.client() as client:
        assert client.zcard("broker:{b}:notices") == 5
        assert client.zcard("broker:{b}:droppable") == 3
    later = await start_instance()
    kept = {"cancel", "cancel 18", "cancel 19", *(f"revoke {number}" for number in range(5))}
    assert set(later.owner.commands) == kept
    assert later.kept == 8


async def test_an_expired_droppable_command_is_not_carried_out_late(start_instance: StartInstance) -> None:
    """It stays on the server until the next is sent; meanwhile its topic may have another producer."""
    one = await start_instance()
    await one.send("cancel", one.harness.now + 10, droppable=True)
    one.harness.advance(11)
    one.harness.store.broadcast.sweep()
    await one.harness.store.broadcast.read_kept()
    assert one.owner.commands == ["cancel"]


async def test_kept_commands_are_carried_out_in_slices(
    start_instance: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "COMMANDS_AT_ONCE", 10)
    one = await start_instance()
    for number in range(95):
        await one.send(str(number), time() + 60)
    seen: list[int] = []
    other = Instance(one.server)

    async def count() -> None:
        while len(other.owner.commands) < 95:
            seen.append(len(other.owner.commands))
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        await other.start()
        await counting
    finally:
        await other.harness.store.stop()
        other.harness.close()
    assert max(after - before for before, after in pairwise([*seen, 95])) <= 10


async def test_a_reading_that_a_lost_connection_interrupts_is_not_complete(
    start_instance: StartInstance,
) -> None:
    """Commands that are sent after it may be missed, until it is read again."""
    one = await start_instance()
    store = one.harness.store.broadcast
    pipeline = WatchedCalls(store._pipeline)
    store._pipeline = pipeline  # type: ignore[assignment]
    reading = asyncio.create_task(store.read_kept())
    while not pipeline.commands:
        await asyncio.sleep(0)
    store.disconnected()
    await reading
    assert not store.is_complete
    await store.read_kept()
    assert store.is_complete


async def test_commands_of_other_versions_are_understood(
    start_instance: StartInstance, shared_server: Server
) -> None:
    """Older versions write no `+` before the time of a droppable command; to them it is part of the number."""
    one = await start_instance()
    with shared_server.client() as client:
        client.publish("broker:0:/notices", f"other\n{time() + 60:.3f}\nold")
        client.publish("broker:0:/notices", f"other\n+{time() + 60:.3f}\nnew")
    await until(lambda: one.owner.commands == ["old", "new"], "both arrive")
    store = one.harness.store.broadcast
    assert ("old" in store.lasting, "new" in store.droppable, one.kept) == (True, True, 2)
    assert float("+1763791200.123") == 1763791200.123


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
