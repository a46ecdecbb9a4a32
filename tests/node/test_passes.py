"""Orders to end streams are carried out together, in passes over all subscribers."""

from __future__ import annotations

import random
from asyncio import TimerHandle
from collections.abc import AsyncIterator, Callable

import pytest

from broker.auth.grants import ALL_TOPICS, Caller, Grant
from broker.errors import Unauthorized
from broker.fanout import batches
from broker.fanout.batches import BatchRunner
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from broker.node.commands import Disconnect, Revoke
from broker.node.evictions import Evictions
from tests.conftest import end_streams
from tests.support.hub_harness import HubHarness

FOREVER = 1e12
SUBJECTS, TOPICS = ("ann", "bob", "cem", "dan"), ("a", "b", "c", "d")


class Harness(HubHarness):
    """A hub with evictions, in turns of the loop that the test makes.

    Attributes:
        visits: how often a subscriber was looked at for a disconnect of its topic.
        ended: the ended streams, with their last events.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[Subscriber, bytes] = {}
        self.batches = BatchRunner(self)
        self.evictions = Evictions(self, self.batches, self.time, self)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> TimerHandle:
        raise NotImplementedError

    def end(
        self, subscriber: Subscriber, reason: CloseReason, farewell: bytes = b"", wait_seconds: float = 0.0
    ) -> None:
        assert reason is CloseReason.DISCONNECTED
        assert subscriber not in self.ended
        self.ended[subscriber] = farewell
        self.hub.finish(subscriber, reason)

    def closed(self, subscriber: Subscriber, reason: CloseReason, age: float) -> None:
        super().closed(subscriber, reason, age)
        self.evictions.closed(subscriber)

    async def open(self, subject: str, *topics: str) -> Subscriber:
        """Raises `Unauthorized` if the subject's token was revoked."""
        caller = Caller(Grant(ALL_TOPICS, ALL_TOPICS, subject=subject))
        self.evictions.check(caller.grant)
        subscriber = await self.subscribe(*topics)
        subscriber.caller = caller
        self.evictions.opened(subscriber)
        return subscriber

    def disconnect(self, *, subject: str | None = None, topic: str | None = None) -> None:
        self.evictions.disconnect(Disconnect(0, subject, topic))

    def revoke(self, subject: str) -> None:
        self.evictions.revoke(Revoke(self.now, FOREVER, None, subject))

    def finish_work(self) -> int:
        """Turn the loop until all is done; how many turns that took."""
        turns = 0
        while len(self.batches):
            assert self.turn()
            turns += 1
        return turns


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    made = Harness()
    yield made
    await end_streams(made)
    assert not made.evictions.passes.newcomers


async def test_i4_many_orders_cost_two_passes_over_the_subscribers(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VISITS", 10)
    everyone = [await harness.open(f"u{number}", "a") for number in range(200)]
    for number in range(0, 1000, 2):
        harness.disconnect(subject=f"u{number}")
        assert len(harness.batches) <= 1
    for number in range(1, 1000, 4):
        harness.revoke(f"u{number}")
        assert len(harness.batches) <= 1
    assert harness.finish_work() <= 2 * 200 // 10 + 2
    expected = {one for number, one in enumerate(everyone) if number % 2 == 0 or number % 4 == 1}
    assert harness.ended.keys() == expected


async def test_i9_many_orders_in_one_turn_of_the_loop_visit_few_subscribers(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VISITS", 100)
    seen: list[Grant] = []

    def trusts(grant: Grant) -> bool:
        seen.append(grant)
        return True

    for number in range(60):
        await harness.open(f"u{number}", "a")
    harness.evictions.keys_changed(trusts)
    harness.finish_work()
    harness.turn()
    seen.clear()
    for number in range(60, 1000):
        harness.revoke(f"u{number}")
    assert len(seen) <= 100
    harness.finish_work()
    assert len(seen) <= 3 * 60, "the first, one that its batch began, and one that took all the others"


async def test_a_disconnected_client_may_return_while_others_are_disconnected(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ACTS", 1)
    old = [await harness.open("ann", "a") for _ in range(3)]
    harness.disconnect(topic="b")  # this pass is over,
    harness.disconnect(subject="ann")
    harness.disconnect(topic="a")
    returned = [await harness.open("ann", "a") for _ in range(3)]
    harness.disconnect(topic="c")
    harness.finish_work()
    assert harness.ended.keys() == set(old)
    harness.disconnect(topic="a")
    harness.finish_work()
    assert harness.ended.keys() == {*old, *returned}


async def test_who_returns_is_ended_by_a_later_order_of_the_same_kind(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ACTS", 1)
    old = [await harness.open("ann", "a") for _ in range(3)]
    harness.disconnect(topic="a")
    returned = await harness.open("ann", "a")
    harness.disconnect(topic="a")
    last = await harness.open("ann", "a")
    harness.finish_work()
    assert harness.ended.keys() == {*old, returned}
    assert last.feed is not None


async def test_a_stream_that_is_disconnected_and_revoked_learns_that_its_token_is_revoked(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VISITS", 1)
    ann, _ = await harness.open("ann", "a"), await harness.open("bob", "b")
    harness.disconnect(topic="c")
    harness.disconnect(topic="a")
    harness.revoke("ann")
    harness.finish_work()
    assert b"revoked" in harness.ended[ann]


async def test_nothing_is_remembered_of_orders_and_newcomers_when_all_is_done(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VISITS", 1)
    for _ in range(5):
        await harness.open("ann", "a")
    for topic in TOPICS[1:]:
        harness.disconnect(topic=topic)
        await harness.open("bob", "a")
    assert len(harness.evictions.passes.newcomers) == 3
    harness.finish_work()
    await harness.open("cem", "a")
    assert not harness.evictions.passes.newcomers


@pytest.mark.parametrize("seed", range(30))
async def test_each_order_ends_the_streams_that_were_open_when_it_came(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(batches, "BATCH_VISITS", chance.randint(1, 6))
    monkeypatch.setattr(batches, "BATCH_ACTS", chance.randint(1, 3))
    streams: dict[Subscriber, tuple[str, set[str]]] = {}
    expected: set[Subscriber] = set()
    gone: set[Subscriber] = set()
    revoked: set[str] = set()
    for _ in range(80):
        what, subject, topic = chance.randrange(10), chance.choice(SUBJECTS), chance.choice(TOPICS)
        if what < 5:
            topics = set(chance.sample(TOPICS, chance.randint(1, 2)))
            if subject in revoked:
                with pytest.raises(Unauthorized):
                    await harness.open(subject, *topics)
            else:
                streams[await harness.open(subject, *topics)] = subject, topics
        elif what == 5:
            expected |= {one for one, (_, topics) in streams.items() if topic in topics}
            harness.disconnect(topic=topic)
        elif what == 6:
            expected |= {one for one, (name, _) in streams.items() if name == subject}
            harness.disconnect(subject=subject)
        elif what == 7 and chance.random() < 0.2:
            expected |= {one for one, (name, _) in streams.items() if name == subject}
            revoked.add(subject)
            harness.revoke(subject)
        elif what == 8 and streams:
            left = chance.choice(list(streams))
            if left.feed is not None:
                gone.add(left)
                count = len(harness.closes)
                harness.hub.cut(left, CloseReason.CLIENT)
                await harness.closing(count + 1)
        else:
            harness.turn()
        assert len(harness.batches) <= 1
    harness.finish_work()
    assert harness.ended.keys() - gone == expected - gone
