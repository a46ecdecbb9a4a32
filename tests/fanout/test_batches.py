"""Many streams end in batches."""

from __future__ import annotations

import pytest

from broker.fanout import batches
from broker.fanout.batches import BatchRunner, Job
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from tests.support.hub_harness import HubHarness


class Recorder(Job):
    """Records the subscribers it acts on; meets a defect with `bad`."""

    def __init__(self, bad: Subscriber | None = None) -> None:
        self.acted_on: list[Subscriber] = []
        self.is_done = False
        self._bad = bad

    def act(self, subscriber: Subscriber) -> None:
        if subscriber is self._bad:
            raise ZeroDivisionError
        self.acted_on.append(subscriber)

    def done(self) -> None:
        self.is_done = True


class DisconnectTopic(Job):
    """Disconnects the subscribers of a topic."""

    def __init__(self, harness: HubHarness, topic: str) -> None:
        self._harness = harness
        self._topic = topic

    def concerns(self, subscriber: Subscriber) -> bool:
        assert subscriber.feed is not None, "asked only while the stream is open"
        return self._topic in subscriber.feed.key.topics

    def act(self, subscriber: Subscriber) -> None:
        self._harness.hub.finish(subscriber, CloseReason.DISCONNECTED)


async def test_a_batch_is_bounded_and_each_subscriber_has_its_turn_once(harness: HubHarness) -> None:
    count = batches.BATCH_ACTS * 2 + 10
    subscribers = [await harness.subscribe("a" if index % 2 else "b") for index in range(count)]
    harness.run()
    runner, first, second = BatchRunner(harness), Recorder(), Recorder()
    runner.run(first, subscribers)
    assert len(first.acted_on) == batches.BATCH_ACTS
    runner.run(second, subscribers[:3])
    while harness.scheduled:
        before = len(first.acted_on) + len(second.acted_on)
        harness.scheduled.pop(0)()
        assert len(first.acted_on) + len(second.acted_on) - before <= batches.BATCH_ACTS
    assert (first.acted_on, first.is_done) == (subscribers, True)
    assert (second.acted_on, second.is_done) == (subscribers[:3], True)
    assert len(runner) == 0


async def test_i9_jobs_of_one_turn_share_a_batch(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(10)] * (batches.BATCH_ACTS // 20)
    runner, jobs = BatchRunner(harness), [Recorder() for _ in range(10)]
    for job in jobs:
        runner.run(job, subscribers)
    assert sum(len(job.acted_on) for job in jobs) <= batches.BATCH_ACTS
    harness.run()
    assert [(job.acted_on, job.is_done) for job in jobs] == [(subscribers, True)] * 10
    first = Recorder()
    runner.run(first, subscribers)
    assert first.is_done, "in a later turn, the first batch runs at once"


async def test_a_job_that_is_done_may_begin_the_next(harness: HubHarness) -> None:
    subscribers = [await harness.subscribe("a") for _ in range(3)]
    runner = BatchRunner(harness)

    class Again(Recorder):
        def done(self) -> None:
            if not self.is_done:
                super().done()
                runner.run(self, subscribers)

    job = Again()
    runner.run(job, subscribers)
    harness.run()
    assert (job.acted_on, len(runner)) == (subscribers * 2, 0)


async def test_a_job_acts_only_on_open_streams_that_concern_it(harness: HubHarness) -> None:
    kept, left, gone = [await harness.subscribe(topic) for topic in ("a", "b", "b")]
    harness.run()
    harness.hub.finish(gone, CloseReason.ENDED)
    runner = BatchRunner(harness)
    runner.run(DisconnectTopic(harness, "b"), harness.hub.subscribers)
    assert (kept.feed is not None, left.feed, len(runner)) == (True, None, 0)


async def test_a_defect_with_one_subscriber_does_not_reach_the_others(
    harness: HubHarness, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = [await harness.subscribe("a") for _ in range(2)]
    runner, job = BatchRunner(harness), Recorder(bad)
    runner.run(job, [bad, good])
    assert (job.acted_on, job.is_done) == ([good], True)
    assert isinstance(runner.failure, ZeroDivisionError)
    assert "met a defect" in caplog.text
