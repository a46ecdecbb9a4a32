"""Catching up: readings are shared by those that ask, end with their replica, and go on in small number without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from broker.stores.redis.catch_up import MAX_UNAWAITED, CatchUp
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.names import Names
from broker.stores.redis.readings import Need
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.scripts import load
from broker.stores.redis.task_owner import TaskOwner
from broker.topics import Retention, RetentionRules
from tests.stores import test_page_reader as pages
from tests.stores import test_replicas as replicas
from tests.stores.test_replicas import at
from tests.support.waiting import until

LIVE = [b"9-0", b"", b"", b"", b"", 0]


class PubSub:
    """A pub/sub connection; it confirms channels when the test says so."""

    def __init__(self) -> None:
        self.is_ready = True
        self.generation = 1
        self.channels: dict[str, asyncio.Future[None]] = {}

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        return self.channels.setdefault(channel, asyncio.get_running_loop().create_future())

    def confirm(self) -> None:
        for confirmed in self.channels.values():
            if not confirmed.done():
                confirmed.set_result(None)


class Harness:
    def __init__(self) -> None:
        self.calls = pages.Calls()
        self.pubsub = PubSub()
        self.tasks = TaskOwner()
        self.state = replicas.Harness()
        self.catch_up = CatchUp(
            Names("broker:", 0, "test"),
            load().read,
            SimpleNamespace(calls=self.calls, pubsub=self.pubsub),  # type: ignore[arg-type]
            self.state.replicas,
            RetentionRules(Retention(10, 1000, 60)),
            Delivery(),
            self.tasks,
        )

    def short(self, topic: str) -> TopicReplica:
        """A live replica that lacks older entries."""
        return self.state.read(topic, (9, 8), after=at(8), upto=9)

    async def called(self) -> None:
        await until(lambda: self.calls.waiting, "a call is made")


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    await harness.tasks.stop()
    assert harness.tasks.defect is None


async def test_a_new_replica_is_read_once_its_channel_is_confirmed(harness: Harness) -> None:
    replica = harness.state.replicas.open("a")
    done = harness.catch_up.make_live(replica)
    assert harness.catch_up.make_live(replica) is done
    for _ in range(10):
        await asyncio.sleep(0)
    assert harness.calls.waiting == []
    harness.pubsub.confirm()
    await harness.called()
    assert harness.calls.topics == [["a"]]
    harness.calls.answer(LIVE)
    await done
    assert replica.phase is Phase.LIVE


async def test_i4_waiting_for_a_channel_adds_nothing_for_each_request(harness: Harness) -> None:
    """The server may be away for long."""
    replica = harness.state.replicas.open("a")
    for _ in range(10):
        harness.catch_up.make_live(replica)
    (confirmed,) = harness.pubsub.channels.values()
    assert len(confirmed._callbacks) == 1


async def test_a_dropped_replica_is_read_no_more(harness: Harness) -> None:
    replica, other = harness.state.replicas.open("a"), harness.state.replicas.open("b")
    harness.catch_up.make_live(replica)
    done = harness.catch_up.make_live(other)
    harness.catch_up.cancel(replica)
    harness.pubsub.confirm()
    await harness.called()
    assert harness.calls.topics == [["b"]]
    harness.calls.answer(LIVE)
    await done
    assert replica.phase is Phase.EMPTY


async def test_topics_are_extended_by_one_call(harness: Harness) -> None:
    met = [harness.catch_up.extend(harness.short(topic), Need(at(1))) for topic in "abc"]
    met.append(harness.catch_up.extend(harness.short("d"), Need(at(2))))
    await harness.called()
    assert harness.calls.topics == [["a", "b", "c", "d"]]
    harness.calls.answer()
    await asyncio.wait(met)


async def test_i4_few_readings_go_on_without_waiters(harness: Harness) -> None:
    """All others stop, and keep the events that they have read."""
    topics = [f"t{number}" for number in range(2 * MAX_UNAWAITED)]
    short = [harness.state.replicas.open(topic) for topic in topics]
    for replica in short:
        harness.state.begin(replica, replicas.page((9, 8)), at(8), upto=9)
        harness.state.replicas.go_live(replica, at(9))
    met = [harness.catch_up.extend(replica, Need(0)) for replica in short]
    await harness.called()
    for future in met:
        future.cancel()
    base = at(0) >> 64
    entry = [f"{base}-8".encode(), f"{base}-7".encode(), b"data: 8\n"]
    harness.calls.answer(*([b"9-0", b"", b"", b"", b"", 1, *entry] for _ in topics))
    await harness.called()
    assert harness.calls.topics == [topics[:MAX_UNAWAITED]]
    assert all(len(replica.log) == 2 for replica in short)
    met = [harness.catch_up.extend(short[-1], Need(0))]
    harness.calls.answer()
    await harness.called()
    assert harness.calls.topics == [[topics[-1]]]
