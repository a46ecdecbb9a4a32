"""Many streams end in slices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.fanout import batches
from broker.fanout.batches import BatchRunner
from broker.fanout.subscriber import CloseReason
from tests.support.hub_harness import HubHarness


async def test_many_end_in_slices_and_each_once(harness: HubHarness) -> None:
    count = batches.SLICE_ACTS * 2 + 10
    subscribers = [await harness.subscribe("a" if index % 2 else "b") for index in range(count)]
    turns: list[Callable[[], None]] = []
    ended: list[object] = []
    orders = BatchRunner(turns.append)
    orders.order(subscribers, lambda subscriber: True, ended.append)
    assert len(ended) == batches.SLICE_ACTS
    orders.order(subscribers[:3], lambda subscriber: True, ended.append)
    while turns:
        before = len(ended)
        turns.pop(0)()
        assert len(ended) - before <= batches.SLICE_ACTS
    assert ended == [*subscribers, *subscribers[:3]], "as nobody has really ended them"


async def test_only_those_concerned_and_still_there(harness: HubHarness) -> None:
    kept, left, gone = [await harness.subscribe(topic) for topic in ("a", "b", "b")]
    turns: list[Callable[[], None]] = []
    orders = BatchRunner(turns.append)
    harness.hub.finish(gone, CloseReason.ENDED)
    orders.order(
        harness.hub.subscribers,
        lambda subscriber: subscriber.feed is not None and "b" in subscriber.feed.key.topics,
        lambda subscriber: harness.hub.finish(subscriber, CloseReason.DISCONNECTED),
    )
    assert (kept.feed is not None, left.feed) == (True, None)
    assert not turns


async def test_a_defect_with_one_of_them_is_not_everybodys(
    harness: HubHarness, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = [await harness.subscribe("a") for _ in range(2)]
    reached: list[object] = []

    def act(subscriber: object) -> None:
        if subscriber is bad:
            raise ZeroDivisionError
        reached.append(subscriber)

    orders, done = BatchRunner(lambda _turn: None), []
    orders.order([bad, good], lambda subscriber: True, act, lambda: done.append("done"))
    assert (reached, done) == ([good], ["done"])
    assert isinstance(orders.failure, ZeroDivisionError)
    assert "met a defect" in caplog.text
