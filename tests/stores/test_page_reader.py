"""The page reader with a pipeline that the test answers: which readings share a call, and what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broker.errors import Unavailable
from broker.events import EventId
from broker.stores.redis import page_reader
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import StoreHistory, TopicPage
from broker.stores.redis.names import Names
from broker.stores.redis.page_reader import MAX_CALLS, TOPICS_PER_CALL, PageReader, PageRequest
from broker.stores.redis.scripts import load
from broker.stores.redis.task_owner import TaskOwner
from broker.topics import Retention, RetentionRules
from tests.support.waiting import until

NOTHING = [b"", b"", b"", b"", b"", 0]
NO_ROOM = [b"9-0", b"", b"", b"", b"", 1]
ONE_ENTRY = [b"9-0", b"", b"", b"", b"", 0, b"9-0", b"8-0", b"data: x\n"]


class Calls:
    """A pipeline; each call waits for the test."""

    def __init__(self) -> None:
        self.waiting: list[tuple[list[str], asyncio.Future[Any]]] = []

    def call(self, _script: object, keys: Sequence[str], _args: Sequence[Any]) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(([key.rpartition(":")[2] for key in keys[1::2]], reply))
        return reply

    @property
    def topics(self) -> list[list[str]]:
        return [topics for topics, _ in self.waiting]

    def answer(self, *parts: Sequence[Any]) -> None:
        """Answer the oldest call; without parts, nothing for each topic."""
        topics, reply = self.waiting.pop(0)
        reply.set_result([b"9-0", 1, b"1-0", b"1-0", b"", b"", b"1-0", *(parts or [NOTHING] * len(topics))])

    def refuse(self) -> None:
        self.waiting.pop(0)[1].set_exception(Unavailable("a test"))


class Reader:
    """Takes pages until it has `pages` of them."""

    def __init__(self, topic: str, pages: int = 1) -> None:
        self.topic = topic
        self.left = pages
        self.taken: list[TopicPage] = []
        self.failures = 0

    def request(self) -> PageRequest | None:
        return PageRequest(0) if self.left else None

    def take(self, _last: EventId, _history: StoreHistory, page: TopicPage) -> bool:
        self.taken.append(page)
        self.left -= 1
        return self.left > 0

    def fail(self, _error: Unavailable) -> bool:
        self.failures += 1
        return self.failures < 2


class Harness:
    def __init__(self) -> None:
        self.calls = Calls()
        self.delivery = Delivery()
        self.tasks = TaskOwner()
        self.reader = PageReader(
            Names("broker:", 0, "test"),
            load().read,
            self.calls,  # type: ignore[arg-type]
            RetentionRules(Retention(10, 1000, 60)),
            self.delivery,
            self.tasks,
        )

    def add(self, *topics: str, pages: int = 1) -> list[Reader]:
        readers = [Reader(topic, pages) for topic in topics]
        for reader in readers:
            self.reader.add(reader)
        return readers

    async def called(self, count: int = 1) -> None:
        await until(lambda: len(self.calls.waiting) >= count, f"{count} calls are made")


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setattr(page_reader, "RETRY_SECONDS", 0)
    harness = Harness()
    yield harness
    await harness.tasks.stop()
    assert harness.tasks.defect is None


async def test_readings_of_one_turn_share_a_call(harness: Harness) -> None:
    a, b = harness.add("a", "b")
    harness.reader.add(a)
    await harness.called()
    assert harness.calls.topics == [["a", "b"]]
    harness.calls.answer(NOTHING, ONE_ENTRY)
    await until(lambda: b.taken, "the pages are taken")
    assert [len(one.taken[0].entries) for one in (a, b)] == [0, 1]


async def test_i4_calls_are_bounded_in_topics_and_number(harness: Harness) -> None:
    topics = [f"t{number}" for number in range(3 * TOPICS_PER_CALL + 1)]
    readers = harness.add(*topics)
    called: list[str] = []
    while len(called) < len(topics):
        await harness.called()
        assert len(harness.calls.waiting) <= MAX_CALLS
        called += harness.calls.topics[0]
        assert len(harness.calls.topics[0]) <= TOPICS_PER_CALL
        harness.calls.answer()
    assert called == topics
    await until(lambda: readers[-1].taken, "the last page is taken")
    assert all(len(reader.taken) == 1 for reader in readers)


async def test_readings_take_turns(harness: Harness) -> None:
    """One with many pages doesn't keep another waiting."""
    (long,) = harness.add("long", pages=3)
    await harness.called()
    harness.add("a")
    await harness.called(2)
    harness.calls.answer(ONE_ENTRY)
    harness.calls.answer()
    await harness.called()
    assert harness.calls.topics == [["long"]]
    harness.calls.answer(ONE_ENTRY)
    await harness.called()
    harness.calls.answer(ONE_ENTRY)
    await until(lambda: len(long.taken) == 3, "it has all pages")


async def test_a_topic_that_got_no_room_comes_first_in_the_next_call(harness: Harness) -> None:
    a, b = harness.add("a", "b", pages=2)
    await harness.called()
    harness.calls.answer(ONE_ENTRY, NO_ROOM)
    await harness.called()
    assert harness.calls.topics == [["b", "a"]]
    assert (len(a.taken), len(b.taken)) == (1, 0)


async def test_a_page_of_a_discarded_reading_is_dropped(harness: Harness) -> None:
    a, b = harness.add("a", "b", pages=2)
    await harness.called()
    harness.reader.discard(a)
    harness.calls.answer(ONE_ENTRY, ONE_ENTRY)
    await harness.called()
    assert (harness.calls.topics, a.taken, len(b.taken)) == ([["b"]], [], 1)


async def test_a_reading_decides_whether_to_try_again(harness: Harness) -> None:
    a, gone = harness.add("a", "gone")
    await harness.called()
    harness.reader.discard(gone)
    harness.calls.refuse()
    await harness.called()
    assert (harness.calls.topics, gone.failures) == ([["a"]], 0)
    harness.calls.refuse()
    await until(lambda: a.failures == 2, "it has failed again")
    await until(lambda: not harness.reader._in_flight, "its turn is over")
    (b,) = harness.add("b")
    harness.reader.add(a)
    await harness.called()
    assert harness.calls.topics == [["b", "a"]]
    harness.calls.answer()
    await until(lambda: b.taken and a.taken, "it may be added again")


async def test_nothing_is_read_during_a_pause(harness: Harness) -> None:
    harness.delivery.flowing.clear()
    harness.add("a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert harness.calls.waiting == []
    harness.delivery.resume()
    await harness.called()
