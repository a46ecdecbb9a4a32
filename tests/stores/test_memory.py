"""The store in memory, where it promises more than other stores: nothing waits, so nothing comes late."""

from __future__ import annotations

import pytest

from broker import sse
from broker.events import format_id, id_at
from broker.log.start import Latest
from broker.stores.base import PublishOptions
from broker.stores.memory import store
from broker.stores.memory.topics import CLOSES_PER_TURN
from tests.contract.conftest import item
from tests.support.store_harness import MemoryStoreHarness, RecordingOwner
from tests.support.waiting import until


@pytest.fixture
def memory() -> MemoryStoreHarness:
    """One that isn't started."""
    return MemoryStoreHarness()


async def test_ids_of_one_moment_are_numbered(memory: MemoryStoreHarness) -> None:
    memory.advance(1)
    first = id_at(memory.clock.now)
    assert (await memory.store.topics.publish([item("a", "1")])).ids == [first]
    assert (await memory.store.topics.publish([item("a", "2"), item("b", "3")])).ids == [first + 1, first + 2]
    assert format_id(first + 2).endswith("-2")


async def test_nothing_is_delivered_before_the_start_and_after_the_stop(memory: MemoryStoreHarness) -> None:
    owner = RecordingOwner()
    await memory.store.logs.watch(["a"], Latest())
    await memory.store.topics.publish([item("a", "before")])
    await memory.store.broadcast.send("before")
    await memory.store.start(owner)
    await memory.store.topics.publish([item("a", "1")])
    await memory.store.broadcast.send("1")
    await memory.store.stop()
    await memory.store.topics.publish([item("a", "after")])
    await memory.store.broadcast.send("after")
    assert (len(owner.deliveries), owner.commands) == (1, ["1"])


async def test_i9_many_abandoned_topics_are_closed_a_few_in_each_turn(memory: MemoryStoreHarness) -> None:
    """An instance with thousands of producers is gone at once."""
    names = [f"t{number}" for number in range(3 * CLOSES_PER_TURN + 1)]
    logs = await memory.store.logs.watch(names, Latest())
    for name in names:
        await memory.store.topics.lease(name, 10)
    memory.advance(11)
    memory.store.sweep()
    assert sum(log.end is not None for log in logs) == CLOSES_PER_TURN
    memory.store.sweep()
    await until(lambda: all(log.end is not None for log in logs), "all are closed")


async def test_nothing_is_delivered_after_unwatch(memory: MemoryStoreHarness) -> None:
    owner = RecordingOwner()
    await memory.store.start(owner)
    await memory.store.logs.watch(["a"], Latest())
    await memory.store.topics.publish([item("a", "1")])
    memory.store.logs.unwatch(["a"])
    await memory.store.topics.publish([item("a", "2")])
    assert len(owner.deliveries) == 1


async def test_an_end_counts_with_its_size(memory: MemoryStoreHarness) -> None:
    owner = RecordingOwner()
    await memory.store.start(owner)
    await memory.store.logs.watch(["a", "b"], Latest())
    ids = (await memory.store.topics.publish([item("a", "1")], options=PublishOptions(ends=["a"]))).ids
    (end,) = (await memory.store.topics.publish([], options=PublishOptions(ends=["b"]))).ids
    event = len(sse.frame(sse.lines(b"1"), ids[0]))
    assert owner.deliveries == [
        ("a", event + len(sse.end("a", "closed", ids[0] + 1))),
        ("b", len(sse.end("b", "closed", end))),
    ]


async def test_its_stats_and_checks(memory: MemoryStoreHarness) -> None:
    await memory.store.topics.publish([item("a", "1"), item("b", "2"), item("a", "3")])
    assert (memory.store.name, memory.store.stats.topics) == ("memory", 2)
    assert memory.store.checks() == {"store": "ok"}
    assert memory.store.stats.connected


async def test_a_sweep_visits_a_share_of_the_topics_however_many(
    memory: MemoryStoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SWEEP_MIN_LOGS", 1)
    monkeypatch.setattr(store, "SWEEP_SHARE", 2)
    for number in range(8):
        await memory.store.topics.publish([item(f"t{number}", "x")])
    each = memory.store.stats.log_bytes // 8
    memory.advance(61)
    left = []
    for _ in range(3):
        memory.store.sweep()
        left.append(memory.store.stats.log_bytes // each)
    assert left == [8, 3, 0], "the first sweep of a round only lists the topics"
