"""The receiver without a server: what payloads, connections and probes have it do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from broker.errors import Unavailable
from broker.events import EventId
from broker.stores.redis import receiver
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.names import Names
from broker.stores.redis.receiver import Receiver
from broker.stores.redis.replica import Phase, TopicReplica
from broker.stores.redis.task_owner import TaskOwner
from broker.stores.redis.watermark import Watermark
from tests.stores import test_replicas as replicas
from tests.stores.test_replicas import NOW, at
from tests.support.waiting import until

MS = int(NOW * 1000)
NAMES = Names("broker:", 0, "test")


def entry(n: int, prev: int, announced: int = 1) -> bytes:
    """The payload of an event at step `n`. All steps lie in one millisecond."""
    return b"E 1 %d-%d %d %d %d 1 0 8\ndata: 1\n" % (MS, prev, MS, n, announced)


class PubSub:
    """The state of a pub/sub connection."""

    def __init__(self) -> None:
        self.generation = 1
        self.is_ready = True
        self.problem = ""
        self.resets: list[str] = []

    def reset(self, why: str) -> None:
        self.resets.append(why)


class Broadcast:
    """Records payloads. `failures`: how often the kept commands can't be read."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.failures = 0
        self.reads = 0
        self.is_disconnected = False

    def receive(self, payload: bytes) -> None:
        self.payloads.append(payload)

    def disconnected(self) -> None:
        self.is_disconnected = True

    async def read_kept(self) -> None:
        self.reads += 1
        if self.reads <= self.failures:
            raise Unavailable("a test")


class CatchUp:
    """Records the topics to be read. `last`: the store's last id."""

    def __init__(self) -> None:
        self.read: list[TopicReplica] = []
        self.syncs = 0
        self.last: EventId = 0

    def make_live(self, replica: TopicReplica) -> None:
        self.read.append(replica)

    async def sync(self) -> EventId:
        self.syncs += 1
        return self.last


class Harness:
    def __init__(self) -> None:
        self.state = replicas.Harness()
        self.pubsub = PubSub()
        self.seen = Watermark()
        self.server_checks = 0
        self.catch_up = CatchUp()
        self.broadcast = Broadcast()
        self.delivery = Delivery()
        self.tasks = TaskOwner()
        connections = SimpleNamespace(
            pubsub=self.pubsub, seen=self.seen, check_same_server=self._check_same_server
        )
        self.receiver = Receiver(
            NAMES,
            connections,  # type: ignore[arg-type]
            self.state.replicas,
            self.catch_up,  # type: ignore[arg-type]
            self.broadcast,  # type: ignore[arg-type]
            self.delivery,
            self.tasks,
        )

    def _check_same_server(self) -> None:
        self.server_checks += 1

    def receive(self, topic: str, payload: bytes) -> None:
        self.receiver.receive(NAMES.channel(topic).encode(), payload)

    @property
    def received_to(self) -> EventId:
        return self.state.replicas.received_to.value


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setattr(receiver, "RETRY_SECONDS", 0)
    monkeypatch.setattr(receiver, "PROBE_SECONDS", 0)
    harness = Harness()
    yield harness
    await harness.tasks.stop()
    assert harness.tasks.defect is None


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_update_is_appended(harness: Harness) -> None:
    replica = harness.state.read("a", (1, 0))
    harness.receive("a", entry(2, 1))
    assert (replicas.steps(replica), harness.received_to, harness.seen.value) == ([1, 2], at(2), at(2))
    assert (harness.catch_up.read, harness.receiver.repairs) == ([], 0)


async def test_i2_a_hole_has_the_topic_read_again(harness: Harness) -> None:
    replica = harness.state.read("a", (1, 0))
    harness.receive("a", entry(4, 3))
    assert (harness.catch_up.read, harness.receiver.repairs) == ([replica], 1)
    assert replica.phase is Phase.STALE


async def test_payloads_of_others_are_ignored(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """And logged once."""
    replica = harness.state.read("a", (1, 0))
    with caplog.at_level(logging.WARNING):
        for payload in (b"hello", b"", b"E x", entry(2, 1)[:-1], b"E 1 \xff"):
            harness.receive("a", payload)
    assert (replicas.steps(replica), replica.phase, harness.received_to) == ([1], Phase.LIVE, 0)
    assert len(caplog.records) == 1


async def test_commands_go_to_the_broadcast(harness: Harness) -> None:
    harness.receiver.receive(NAMES.broadcast_channel.encode(), b"a command")
    assert harness.broadcast.payloads == [b"a command"]


async def test_i2_what_a_call_for_several_topics_has_not_announced_is_asked_for(harness: Harness) -> None:
    """Its last topic's channel, which announces it, may not be subscribed to."""
    harness.state.read("a", (1, 0))
    harness.receive("a", entry(2, 1, announced=0))
    await turns()
    assert (harness.received_to, harness.catch_up.syncs) == (at(1), 1)


async def test_i2_the_highest_id_counts_of_those_that_are_not_announced(harness: Harness) -> None:
    """A call gives a the ids 5 and 7, b 6, and a topic that isn't watched 8."""
    harness.state.read("a", (1, 0))
    harness.state.read("b", (1, 0))
    harness.receive("a", b"E 1 %d-1 %d 5 1 2 0 8 2 8\ndata: 5\ndata: 7\n" % (MS, MS))
    harness.receive("b", entry(6, 1, announced=0))
    harness.receive("_probe:test", b"P 1 %d-6" % MS)
    await turns()
    assert (harness.received_to, harness.catch_up.syncs) == (at(6), 1)


async def test_an_announcement_in_the_same_turn_saves_the_call(harness: Harness) -> None:
    harness.state.read("a", (1, 0))
    harness.receive("a", entry(2, 1, announced=0))
    harness.receive("a", entry(3, 2))
    await turns()
    assert (harness.received_to, harness.catch_up.syncs) == (at(3), 0)


async def test_a_new_connection_has_everything_read_again(harness: Harness) -> None:
    live = harness.state.read("a", (1, 0))
    empty = harness.state.replicas.open("b")
    harness.broadcast.failures = 2
    harness.receiver.disconnected()
    assert (live.phase, harness.broadcast.is_disconnected) == (Phase.STALE, True)
    harness.receiver.subscribed()
    assert (harness.catch_up.read, harness.receiver.repairs) == ([live, empty], 1)
    assert harness.server_checks == 1
    await until(lambda: harness.broadcast.reads == 3, "the kept commands are read")


async def test_a_new_connection_is_probed_at_once(harness: Harness) -> None:
    """A probe that the previous connection didn't deliver held up streams of several topics until its time-out."""
    harness.catch_up.last = at(3)
    harness.tasks.spawn(harness.receiver.probe())
    await until(lambda: harness.catch_up.syncs, "a probe is sent")
    harness.receiver.disconnected()
    sent = harness.catch_up.syncs
    harness.receiver.subscribed()
    await until(lambda: harness.catch_up.syncs > sent, "another one is")
    assert harness.receiver.lag_seconds == 0, "while the first is still waited for"


async def test_a_lost_connection_reads_no_commands(harness: Harness) -> None:
    harness.broadcast.failures = 1 << 60
    harness.receiver.subscribed()
    await until(lambda: harness.broadcast.reads > 1, "it tries again")
    harness.pubsub.is_ready = False
    await until(lambda: not harness.tasks._running, "it has stopped")


async def test_probes_measure_the_lag(harness: Harness) -> None:
    harness.catch_up.last = at(3)
    harness.tasks.spawn(harness.receiver.probe())
    await until(lambda: harness.catch_up.syncs, "a probe is sent")
    harness.receive("_probe:test", b"P 1 %d-3" % MS)
    await until(lambda: harness.receiver.lag_seconds > 0, "it is heard")
    assert (harness.receiver.problem, harness.pubsub.resets) == ("", [])


async def test_i2_a_probe_that_does_not_arrive_replaces_the_connection(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "PROBE_TIMEOUT_SECONDS", 0.01)
    harness.catch_up.last = at(3)
    harness.tasks.spawn(harness.receiver.probe())
    await until(lambda: harness.pubsub.resets, "the connection is reset")
    assert harness.pubsub.resets[0] == "published events don't arrive"
    assert harness.receiver.problem == "published events don't arrive"


async def test_a_pause_is_no_problem(harness: Harness) -> None:
    """Payloads wait on the server while subscribers can't keep up."""
    harness.receiver._probed_at = time.monotonic() - 10 * receiver.PROBE_TIMEOUT_SECONDS
    assert harness.receiver.problem
    harness.delivery.flowing.clear()
    assert not harness.receiver.problem
    harness.tasks.spawn(harness.receiver.probe())
    await turns()
    assert (harness.catch_up.syncs, harness.pubsub.resets) == (0, [])
