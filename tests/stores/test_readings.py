"""Readings without a server: which page each asks for, and what the page makes of its replica."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import Unavailable
from broker.stores.redis.formats import TopicPage
from broker.stores.redis.page_reader import PAGE_ENTRIES, PageRequest
from broker.stores.redis.readings import FrontReading, Need, TailReading
from broker.stores.redis.replica import Phase, TopicReplica
from tests.stores.test_replicas import HISTORY, LOSS_AT_5, Harness, at, gaps, page, steps


class Owner:
    """Allows readings without waiters to go on, or not."""

    def __init__(self) -> None:
        self.allows = True
        self.ended: list[object] = []

    def tail_ended(self, reading: TailReading) -> None:
        self.ended.append(reading)

    def front_ended(self, reading: FrontReading) -> None:
        self.ended.append(reading)

    def may_go_on(self, _reading: FrontReading) -> bool:
        return self.allows


class Front:
    """A reading in front of a live replica that has the events 8 and 9 of nine."""

    def __init__(self, harness: Harness) -> None:
        self.replica: TopicReplica = harness.read("a", (8, 7), (9, 8), after=at(7), upto=9)
        self.owner = Owner()
        self.reading = FrontReading(self.replica, harness.replicas, self.owner)

    def take(self, *entries: tuple[int, int], more: bool = False) -> bool:
        return self.reading.take(at(9), HISTORY, page(*entries, more=more))


@pytest.fixture
async def harness() -> Harness:
    return Harness()


async def test_a_page_in_front_joins_at_once(harness: Harness) -> None:
    front = Front(harness)
    met = front.reading.ask(Need(at(2)))
    assert front.reading.request() == PageRequest(at(2), at(7), PAGE_ENTRIES)
    assert front.take((6, 5), (7, 6), more=True)
    assert (steps(front.replica), front.replica.log.complete_from) == ([6, 7, 8, 9], at(5))
    assert not met.done()
    assert front.reading.request() == PageRequest(at(2), at(5), PAGE_ENTRIES)
    assert front.take((3, 2), (4, 3), (5, 4))
    assert met.result() == 0
    assert front.reading.request() is None
    assert front.owner.ended == [front.reading]
    assert (steps(front.replica), gaps(front.replica)) == ([3, 4, 5, 6, 7, 8, 9], [])


async def test_the_newest_events_are_asked_for_by_number(harness: Harness) -> None:
    front = Front(harness)
    met = front.reading.ask(Need(0, newest=5))
    assert front.reading.request() == PageRequest(0, at(7), 3)
    front.take((5, 4), (6, 5), (7, 6), more=True)
    assert met.done()
    assert front.reading.request() is None


async def test_each_need_is_met_by_its_own_page(harness: Harness) -> None:
    front = Front(harness)
    later, earlier = front.reading.ask(Need(at(6))), front.reading.ask(Need(at(1)))
    assert front.reading.request() == PageRequest(at(1), at(7), PAGE_ENTRIES)
    front.take((7, 6), more=True)
    assert (later.done(), earlier.done()) == (True, False)


async def test_the_earliest_cursor_and_the_largest_number_count(harness: Harness) -> None:
    front = Front(harness)
    met = [front.reading.ask(Need(at(step))) for step in (1, 3)]
    assert front.reading.request() == PageRequest(at(1), at(7), PAGE_ENTRIES)
    met += [front.reading.ask(Need(0, newest=number)) for number in (9, 5)]
    assert front.reading.request() == PageRequest(0, at(7), PAGE_ENTRIES)
    front.take(*[(step, step - 1) for step in range(2, 8)], more=True)
    assert [one.done() for one in met] == [True, True, False, True]
    assert front.reading.request() == PageRequest(0, at(1), 1)


async def test_a_topic_may_have_fewer_events_than_are_asked_for(harness: Harness) -> None:
    front = Front(harness)
    met = front.reading.ask(Need(0, newest=50))
    assert front.reading.request() == PageRequest(0, at(7), 48)
    front.take((7, 6))
    assert met.done()
    assert front.reading.request() is None


async def test_retention_may_pass_the_page_on_its_way(harness: Harness) -> None:
    """The store too had dropped the events before the page, so the log answers as the store does."""
    front = Front(harness)
    met = front.reading.ask(Need(at(1)))
    front.reading.request()
    front.replica.log._drop_before(1)
    assert front.take()
    assert met.done()
    assert (steps(front.replica), front.replica.log.has_gap(at(1))) == ([9], True)


async def test_i2_a_page_does_not_join_a_log_that_was_emptied(harness: Harness) -> None:
    """The bounds on all logs took 8 and 9, which the store still has."""
    front = Front(harness)
    met = front.reading.ask(Need(at(6)))
    front.reading.request()
    front.replica.log.empty()
    assert front.take((7, 6))
    assert not met.done()
    assert front.reading.request() == PageRequest(at(6), at(9), PAGE_ENTRIES)
    front.take((7, 6), (8, 7), (9, 8))
    assert met.result() == 1
    assert (steps(front.replica), gaps(front.replica)) == ([7, 8, 9], [])


async def test_it_goes_on_without_waiters_if_it_may(harness: Harness) -> None:
    front = Front(harness)
    front.reading.ask(Need(at(1))).cancel()
    front.reading.request()
    assert front.take((7, 6), more=True)
    front.owner.allows = False
    front.reading.request()
    assert not front.take((6, 5), more=True)
    assert steps(front.replica) == [6, 7, 8, 9]
    assert front.owner.ended == [front.reading]


async def test_i4_without_waiters_it_takes_no_room_from_other_topics() -> None:
    """One that is waited for does."""
    harness = Harness(max_bytes=1000)
    front = Front(harness)
    other = harness.read("b", (1, 0), (2, 1), upto=9).log
    first = front.reading.ask(Need(at(1)))
    front.reading.request()
    assert front.take((7, 6), more=True)
    assert (len(front.replica.log), len(other)) == (3, 0)
    first.cancel()
    front.reading.request()
    assert not front.take((5, 4), (6, 5), more=True)
    assert steps(front.replica) == [7, 8, 9]
    assert front.owner.ended == [front.reading]


async def test_i4_requests_that_gave_up_are_forgotten(harness: Harness) -> None:
    """The page may be long in coming."""
    front = Front(harness)
    for _ in range(10):
        front.reading.ask(Need(at(1))).cancel()
    await asyncio.sleep(0)
    assert not front.reading._waiting


async def test_an_error_reaches_those_that_wait(harness: Harness) -> None:
    front = Front(harness)
    gone, waiting = front.reading.ask(Need(at(1))), front.reading.ask(Need(at(1)))
    gone.cancel()
    error = Unavailable("a test")
    assert not front.reading.fail(error)
    assert waiting.result() is error
    assert front.owner.ended == [front.reading]


class PubSub:
    """The state of a pub/sub connection."""

    def __init__(self) -> None:
        self.is_ready = True
        self.generation = 1


class Tail:
    """A reading at the end of a replica."""

    def __init__(self, harness: Harness, first: Need | None = None) -> None:
        self.replica = harness.replicas.open("a")
        self.pubsub = PubSub()
        self.owner = Owner()
        self.reading = TailReading(self.replica, first, harness.replicas, self.pubsub, self.owner)  # type: ignore[arg-type]

    def take(self, taken: TopicPage) -> bool:
        return self.reading.take(at(9), HISTORY, taken)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (None, PageRequest(None)),
        (Need(at(3)), PageRequest(at(3), newest=PAGE_ENTRIES)),
        (Need(0, newest=2), PageRequest(0, newest=2)),
        (Need(0, newest=10_000), PageRequest(0, newest=PAGE_ENTRIES)),
    ],
)
async def test_where_a_new_replica_begins(
    harness: Harness, first: Need | None, expected: PageRequest
) -> None:
    assert Tail(harness, first).reading.request() == expected


async def test_a_new_replica_is_live_with_the_newest_page(harness: Harness) -> None:
    tail = Tail(harness, Need(at(2)))
    tail.reading.request()
    assert not tail.take(page((7, 6), (9, 7), more=True))
    assert (tail.reading.done.done(), tail.owner.ended) == (True, [tail.reading])
    assert (tail.replica.phase, tail.replica.log.complete_from) == (Phase.LIVE, at(6))


async def test_a_replica_without_entries_is_complete_from_its_last_event(harness: Harness) -> None:
    """Later subscribers with a cursor after that event need no other page."""
    tail = Tail(harness)
    tail.reading.request()
    tail.take(TopicPage(at(4), 0, 0, None, None, False, ()))
    assert tail.replica.log.reaches(at(4)) and not tail.replica.log.reaches(at(3))


async def test_i2_a_loss_after_its_last_event_is_a_gap(harness: Harness) -> None:
    tail = Tail(harness)
    tail.reading.request()
    tail.reading.take(at(9), LOSS_AT_5, TopicPage(at(4), 0, 0, None, None, False, ()))
    assert gaps(tail.replica, after=at(4)) == ["lost"]
    assert gaps(tail.replica, after=at(5)) == []


async def test_missed_events_are_read_page_by_page(harness: Harness) -> None:
    tail = Tail(harness, Need(0))
    tail.reading.request()
    tail.take(page((1, 0)))
    harness.disconnect()
    again = TailReading(tail.replica, None, harness.replicas, tail.pubsub, tail.owner)  # type: ignore[arg-type]
    assert again.request() == PageRequest(at(1))
    assert again.take(at(9), HISTORY, page((2, 1), more=True))
    assert again.request() == PageRequest(at(2))
    assert not again.take(at(9), HISTORY, page((3, 2)))
    assert (steps(tail.replica), tail.replica.phase) == ([1, 2, 3], Phase.LIVE)


async def test_i2_a_page_of_an_earlier_connection_makes_nothing_live(harness: Harness) -> None:
    """Events published between the page and the new connection's subscription are in neither."""
    tail = Tail(harness, Need(0))
    tail.reading.request()
    tail.pubsub.generation += 1
    assert tail.take(page((1, 0)))
    phases = [tail.replica.phase]
    assert tail.reading.request() == PageRequest(at(1))
    assert not tail.take(page((2, 1)))
    assert [*phases, tail.replica.phase] == [Phase.FILLING, Phase.LIVE]


async def test_it_waits_for_the_channels(harness: Harness) -> None:
    tail = Tail(harness, Need(0))
    tail.pubsub.is_ready = False
    assert tail.reading.request() is None
    assert not tail.reading.done.done()
    assert tail.reading.fail(Unavailable("a test"))
