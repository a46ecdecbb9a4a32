"""When events of several sockets share a wake-up of the loop, and when each has its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from broker.process.coalescing import BUSY_SECONDS, IDLE_EVENTS, INTERVAL_SECONDS, SAMPLE, CoalescingEpoll

EVENTFDS = 8
MAX_EVENTS = 4
IN = 1


class SteppedHandle:
    def __init__(self, loop: SteppedLoop, callback: Callable[[], object], due: float) -> None:
        self.callback, self.due = callback, due
        self._loop = loop

    def cancel(self) -> None:
        self._loop.handles.remove(self)


class SteppedLoop:
    """A loop with a time that a test moves.

    Attributes:
        now: its time.
        reader: the callback for the watched descriptor; None if nothing is watched.
        handles: the calls to come, and their times.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.reader: Callable[[], object] | None = None
        self.handles: list[SteppedHandle] = []

    def time(self) -> float:
        return self.now

    def add_reader(self, _watched: object, callback: Callable[[], object]) -> None:
        assert self.reader is None
        self.reader = callback

    def remove_reader(self, _watched: object) -> None:
        assert self.reader is not None
        self.reader = None

    def call_later(self, delay: float, callback: Callable[[], object]) -> SteppedHandle:
        self.handles.append(SteppedHandle(self, callback, self.now + delay))
        return self.handles[-1]

    def call_soon(self, callback: Callable[[], object]) -> SteppedHandle:
        return self.call_later(0, callback)

    def run(self) -> None:
        """Go on to the next timer."""
        handle = min(self.handles, key=lambda handle: handle.due)
        self.handles.remove(handle)
        self.now = max(self.now, handle.due)
        handle.callback()


class Bench:
    """An epoll of some descriptors that a test makes readable.

    Attributes:
        served: the descriptors of each call of `serve`.
    """

    def __init__(self) -> None:
        self.loop = SteppedLoop()
        self.served: list[list[int]] = []
        self.descriptors = [os.eventfd(0) for _ in range(EVENTFDS)]
        self.polling = CoalescingEpoll(cast("asyncio.AbstractEventLoop", self.loop), self._serve, MAX_EVENTS)
        for descriptor in self.descriptors:
            self.polling.epoll.register(descriptor, IN)

    def _serve(self, ready: Sequence[tuple[int, int]]) -> None:
        assert all(events == IN for _, events in ready)
        for descriptor, _ in ready:
            os.eventfd_read(descriptor)
        self.served.append([descriptor for descriptor, _ in ready])

    def arrive(self, count: int = 1) -> None:
        """Make so many descriptors readable. The loop wakes if it watches them."""
        for descriptor in self.descriptors[:count]:
            os.eventfd_write(descriptor, 1)
        if self.loop.reader is not None:
            self.loop.reader()

    def be_busy(self) -> None:
        """Wake it so often that the timer takes over."""
        for _ in range(2 * SAMPLE):
            if not self.polling.is_coalescing:
                self.arrive()
        assert self.polling.is_coalescing
        self.served.clear()

    def close(self) -> None:
        self.polling.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()
    assert (made.loop.reader, made.loop.handles) == (None, []), "nothing of it is left in the loop"


def test_while_there_are_few_none_waits(bench: Bench) -> None:
    for number in range(10 * SAMPLE):
        bench.loop.now += 1.1 * BUSY_SECONDS / SAMPLE
        bench.arrive()
        assert len(bench.served) == number + 1, "at once"
    assert not bench.loop.handles


def test_many_share_a_wake_up(bench: Bench) -> None:
    bench.be_busy()
    assert bench.loop.reader is None, "the loop isn't woken for each"
    began_at = bench.loop.now
    bench.arrive()
    bench.arrive(2)
    bench.arrive(3)
    assert bench.served == []
    bench.loop.run()
    assert bench.loop.now - began_at == pytest.approx(INTERVAL_SECONDS)
    assert [len(each) for each in bench.served] == [3]


def test_it_polls_as_long_as_that_finds_enough(bench: Bench) -> None:
    bench.be_busy()
    for _ in range(10 * SAMPLE):
        bench.arrive(IDLE_EVENTS // SAMPLE)
        former = bench.loop.now
        bench.loop.run()
        assert bench.loop.now - former == pytest.approx(INTERVAL_SECONDS)
    assert bench.polling.is_coalescing
    assert sum(map(len, bench.served)) == 10 * IDLE_EVENTS


@pytest.mark.parametrize("found", [0, 1])
def test_it_ends_when_that_finds_too_little(bench: Bench, found: int) -> None:
    bench.be_busy()
    for _ in range(2 * SAMPLE):
        if bench.polling.is_coalescing:
            bench.arrive(found)
            bench.loop.run()
    assert not bench.polling.is_coalescing
    assert not bench.loop.handles, "an idle loop is not woken"
    bench.served.clear()
    bench.arrive()
    assert len(bench.served) == 1, "at once again"


def test_a_poll_that_finds_as_many_as_it_may_is_followed_by_another_at_once(bench: Bench) -> None:
    bench.be_busy()
    bench.arrive(MAX_EVENTS + 1)
    bench.loop.run()
    at = bench.loop.now
    bench.loop.run()
    assert bench.loop.now == at
    assert [len(each) for each in bench.served] == [MAX_EVENTS, 1]
    bench.loop.run()
    assert bench.loop.now - at == pytest.approx(INTERVAL_SECONDS)


def test_a_slow_turn_does_not_lengthen_the_interval(bench: Bench) -> None:
    bench.be_busy()
    serve = bench.polling._serve

    def slowly(ready: Any) -> None:
        bench.loop.now += 0.7 * INTERVAL_SECONDS
        serve(ready)

    bench.polling._serve = slowly
    bench.arrive(2)
    bench.loop.run()
    bench.arrive(1)
    former = bench.loop.now
    bench.loop.run()
    assert bench.loop.now - former == pytest.approx(INTERVAL_SECONDS), "0.7 of it had passed"


def test_closed_while_the_timer_runs(bench: Bench) -> None:
    bench.be_busy()
    assert bench.loop.handles
