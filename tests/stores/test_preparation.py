"""A request's wait for its replicas, without a server: its commands, and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from broker.errors import Unavailable
from broker.events import EventId
from broker.log.start import After, Last, Latest, Malformed, Since, Start
from broker.stores.redis.preparation import Preparation
from broker.stores.redis.readings import Need
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.watermark import Watermark
from tests.stores import test_replicas as replicas
from tests.stores.test_replicas import NOW, at
from tests.support.waiting import until


class CatchUp:
    """Records the requests; the test answers. `last`: the store's last id."""

    def __init__(self) -> None:
        self.live: dict[TopicReplica, tuple[Need | None, asyncio.Future[None]]] = {}
        self.extended: list[tuple[TopicReplica, Need, asyncio.Future[int | Unavailable]]] = []
        self.syncs = 0
        self.last: EventId = 0
        self.on_sync: Callable[[], None] = lambda: None

    def make_live(self, replica: TopicReplica, first: Need | None = None) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        return self.live.setdefault(replica, (first, done))[1]

    def extend(self, replica: TopicReplica, need: Need) -> asyncio.Future[int | Unavailable]:
        met: asyncio.Future[int | Unavailable] = asyncio.get_running_loop().create_future()
        self.extended.append((replica, need, met))
        return met

    async def sync(self) -> EventId:
        self.syncs += 1
        self.on_sync()
        return self.last


class Harness:
    def __init__(self) -> None:
        self.state = replicas.Harness()
        self.catch_up = CatchUp()
        self.pubsub = SimpleNamespace(is_ready=True, generation=1)
        self.seen = Watermark()
        self.tasks: list[asyncio.Task[None]] = []
        self.receive_to(9)

    def receive_to(self, step: int) -> None:
        self.seen.raise_to(at(step))
        self.state.replicas.received(at(step), 1)

    def short(self, topic: str) -> TopicReplica:
        """A live replica that begins after step 8."""
        return self.state.read(topic, (9, 8), after=at(8), upto=9)

    def prepare(self, start: Start, *prepared: TopicReplica) -> Preparation:
        connections = SimpleNamespace(pubsub=self.pubsub, seen=self.seen)
        return Preparation(prepared, start, connections, self.state.replicas, self.catch_up)  # type: ignore[arg-type]

    def run(self, start: Start, *prepared: TopicReplica) -> asyncio.Task[None]:
        task = asyncio.create_task(self.prepare(start, *prepared).run())
        self.tasks.append(task)
        return task


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    for task in harness.tasks:
        task.cancel()
    await asyncio.gather(*harness.tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Latest(), None),
        (After(at(3), ""), Need(at(3))),
        (After(at(99), ""), Need(at(99))),
        (Last(5), Need(0, newest=5)),
        (Since(0), Need(0)),
        (Since(NOW), Need(at(0) - 1)),
        (Malformed("x"), Need(0)),
    ],
)
async def test_where_a_new_replica_begins(harness: Harness, start: Start, expected: Need | None) -> None:
    replica = harness.state.replicas.open("a")
    harness.run(start, replica)
    await until(lambda: harness.catch_up.live, "it is to be read")
    assert harness.catch_up.live[replica][0] == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (After(at(8), ""), True),
        (After(at(7), ""), False),
        (After(at(10), ""), False),
        (Last(1), True),
        (Last(2), False),
        (Since(NOW), False),
        (Latest(), False),
    ],
)
async def test_what_a_live_replica_can_answer_at_once(harness: Harness, start: Start, expected: bool) -> None:
    replica = harness.short("a")
    assert harness.prepare(start, replica).is_finished == expected
    assert not harness.prepare(start, replica, harness.short("b")).is_finished
    harness.state.disconnect()
    assert not harness.prepare(start, replica).is_finished
    assert (harness.catch_up.live, harness.catch_up.extended) == ({}, [])


async def test_all_short_replicas_are_extended_at_once(harness: Harness) -> None:
    both = [harness.short("a"), harness.short("b")]
    task = harness.run(After(at(3), ""), *both)
    await until(lambda: harness.catch_up.extended, "they are extended")
    assert [(replica, need) for replica, need, _ in harness.catch_up.extended] == [
        (replica, Need(at(3))) for replica in both
    ]
    for replica, _, met in harness.catch_up.extended:
        harness.state.replicas.prepend(replica, (), at(3))
        met.set_result(0)
    await task


@pytest.mark.parametrize("start", [Latest(), After(at(99), "")])
async def test_i2_a_log_that_begins_after_what_was_received_is_extended(
    harness: Harness, start: Start
) -> None:
    """It was read later than the probe was sent, and events came between the two."""
    replica = harness.state.read("a", (12, 11), after=at(11), upto=12)
    harness.seen.raise_to(at(12))
    harness.catch_up.last = at(9)
    harness.run(start, replica)
    await until(lambda: harness.catch_up.extended, "it is extended")
    assert harness.catch_up.extended[0][1] == Need(at(9))


async def test_a_log_that_retention_has_trimmed_since_counts(harness: Harness) -> None:
    """Else a busy topic could never be followed. One that was emptied for other topics is read again."""
    one, other = harness.short("a"), harness.short("b")
    trimmed, emptied = (harness.run(After(at(3), ""), replica) for replica in (one, other))
    await until(lambda: len(harness.catch_up.extended) == 2, "both are extended")
    other.log.empty()
    for _, _, met in harness.catch_up.extended:
        met.set_result(0)
    await trimmed
    await until(lambda: len(harness.catch_up.extended) == 3, "the other is extended again")
    assert harness.catch_up.extended[2][0] is other
    assert not emptied.done()


async def test_an_error_is_raised(harness: Harness) -> None:
    task = harness.run(After(at(3), ""), harness.short("a"))
    await until(lambda: harness.catch_up.extended, "it is extended")
    harness.catch_up.extended[0][2].set_result(Unavailable("a test"))
    with pytest.raises(Unavailable, match="a test"):
        await task


async def test_a_request_that_gives_up_waits_for_nothing_any_more(harness: Harness) -> None:
    """Its reading shows that. A replica that becomes live is shared."""
    replica, empty = harness.short("a"), harness.state.replicas.open("b")
    task = harness.run(After(at(3), ""), replica, empty)
    await until(lambda: harness.catch_up.extended, "it is extended")
    task.cancel()
    await asyncio.wait([task])
    assert harness.catch_up.extended[0][2].cancelled()
    assert not harness.catch_up.live[empty][1].done()


async def test_i2_several_topics_are_complete_up_to_the_stores_last_id(harness: Harness) -> None:
    harness.catch_up.last = at(12)
    task = harness.run(After(at(8), ""), harness.short("a"), harness.short("b"))
    await until(lambda: harness.catch_up.syncs, "it asks for the id")
    harness.receive_to(11)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    harness.receive_to(12)
    await task


async def test_i2_the_probe_of_a_lost_connection_is_sent_again(harness: Harness) -> None:
    harness.catch_up.last = at(12)

    def lose_connection() -> None:
        harness.pubsub.generation = 2

    harness.catch_up.on_sync = lose_connection
    task = harness.run(Latest(), harness.short("a"))
    await until(lambda: harness.catch_up.syncs == 2, "it asks again")
    harness.receive_to(12)
    await task


async def test_a_replica_that_is_interrupted_meanwhile_is_waited_for(harness: Harness) -> None:
    replica = harness.short("a")
    harness.catch_up.last = at(12)
    task = harness.run(Latest(), replica)
    await until(lambda: harness.catch_up.syncs, "it asks for the id")
    harness.state.disconnect()
    harness.receive_to(12)
    await until(lambda: harness.catch_up.live, "it is to be read again")
    assert not task.done()
    harness.state.read_on(replica, replicas.page((9, 8)))
    assert harness.state.replicas.go_live(replica, at(12))
    harness.catch_up.live[replica][1].set_result(None)
    await task
    assert replica.phase is Phase.LIVE
