"""The contract of a store (`stores/base.py`), on every store there is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker import sse
from broker.errors import RateLimited
from broker.start import Latest
from broker.stores.base import Store
from broker.stores.memory import MemoryStore
from broker.topics import Retention, RetentionRules
from tests.web.serving import Clock


def item(topic: str, data: str) -> tuple[str, bytes]:
    return topic, sse.lines(data.encode())


class Delivered:
    """What a store delivered, as (topic, bytes)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, topic: str, size: int) -> None:
        self.calls.append((topic, size))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def delivered() -> Delivered:
    return Delivered()


@pytest.fixture(params=["memory"])
async def store(request: pytest.FixtureRequest, clock: Clock, delivered: Delivered) -> AsyncIterator[Store]:
    """Each store in turn, with a small retention."""
    made: Store = MemoryStore(
        RetentionRules(Retention(10, 10_000, 60)),
        clock=clock,
        max_log_bytes=1_000_000,
        max_topics=100,
        topic_memory_seconds=3600,
        idempotency_seconds=300,
        max_key_bytes=10_000,
    )
    await made.start(delivered)
    yield made
    await made.stop()


async def test_ids_strictly_increase_over_all_topics(store: Store, clock: Clock) -> None:
    ids: list[int] = []
    for step in (0, 1, -10, 0, 5):
        clock.now += step
        ids += (await store.publish([item("a", "1"), item("b", "2"), item("a", "3")])).ids
    assert ids == sorted(set(ids))
    assert store.last_id == ids[-1]
    assert ids[0] > store.born


async def test_watched_log_grows_and_is_delivered(store: Store, delivered: Delivered) -> None:
    await store.publish([item("a", "before")])
    assert delivered.calls == []
    (log,) = await store.watch(["a"], Latest())
    assert len(log) == 1
    ids = (await store.publish([item("a", "1"), item("b", "x"), item("a", "2")])).ids
    frames = [sse.frame(sse.lines(text), ids[index]) for text, index in ((b"1", 0), (b"2", 2))]
    assert [entry.frame for entry in log.after(ids[0] - 1)] == frames
    assert delivered.calls == [("a", sum(map(len, frames)))]
    assert store.complete_to >= ids[-1]


async def test_each_watch_is_taken_back_once(store: Store, delivered: Delivered) -> None:
    (log,) = await store.watch(["a"], Latest())
    assert (await store.watch(["a"], Latest()))[0] is log
    store.unwatch(["a"])
    await store.publish([item("a", "1")])
    assert len(delivered.calls) == 1
    store.unwatch(["a"])
    await store.publish([item("a", "2")])
    assert len(delivered.calls) == 1


async def test_prev_names_the_entry_before(store: Store) -> None:
    (log,) = await store.watch(["a"], Latest())
    before = log.last
    ids = (await store.publish([item("a", "1"), item("b", "x"), item("a", "2")])).ids
    assert [entry.prev for entry in log.after(before)] == [before, ids[0]]


async def test_retention(store: Store, clock: Clock) -> None:
    await store.publish([item("a", str(number)) for number in range(30)])
    assert (await store.describe(["a"]))[0].events == 10
    await store.publish([item("a", "x" * 4000) for _ in range(5)])
    (state,) = await store.describe(["a"])
    assert (state.events, state.bytes <= 10_000) == (2, True)
    clock.now += 61
    (state,) = await store.describe(["a"])
    assert (state.events, state.bytes, state.first_id) == (0, 0, None)
    assert state.last_id == store.last_id


async def test_a_log_with_a_reader_is_not_trimmed_before_it_is_written(store: Store) -> None:
    (log,) = await store.watch(["a"], Latest())
    log.hold = log.last
    start = log.last
    await store.publish([item("a", str(number)) for number in range(30)])
    assert len(list(log.after(start))) == 30
    log.hold = log.last
    store.written("a")
    assert len(log) == 10


async def test_delete(store: Store, delivered: Delivered) -> None:
    (log,) = await store.watch(["a"], Latest())
    log.hold = log.last
    (last,) = (await store.publish([item("a", "1")])).ids
    await store.delete("a")
    assert store.last_id > last
    *_, end = log.after(last)
    assert end.end
    assert end.id == store.last_id
    assert b'"reason":"deleted"' in end.frame
    assert [topic for topic, _ in delivered.calls] == ["a", "a"]
    assert (await store.describe(["a"]))[0].events == 0
    assert log.has_gap(last - 1)
    assert not log.has_gap(last)


async def test_deleting_what_never_was(store: Store) -> None:
    await store.delete("a")
    assert await store.topics("", 10) == []


async def test_topics(store: Store) -> None:
    for name in ("c", "a", "b"):
        await store.publish([item(name, "1")])
    await store.watch(["d"], Latest())
    assert await store.topics("", 10) == ["a", "b", "c", "d"]
    assert await store.topics("a", 2) == ["b", "c"]
    store.unwatch(["d"])
    assert await store.topics("c", 10) == []


async def test_topics_that_come_and_go_between_pages_move_no_other(store: Store) -> None:
    for name in "bdfhj":
        await store.publish([item(name, "1")])
    await store.watch(["e"], Latest())
    assert await store.topics("", 2) == ["b", "d"]
    await store.publish([item("a", "1")])
    await store.publish([item("g", "1")])
    store.unwatch(["e"])
    assert await store.topics("d", 3) == ["f", "g", "h"]
    assert await store.topics("e", 1) == ["f"], "a page begins also after a name that is gone"


async def test_key_counts_once_a_topic(store: Store, clock: Clock) -> None:
    first = await store.publish([item("a", "1"), item("b", "1")], "key")
    assert not first.replayed
    again = await store.publish([item("a", "1"), item("b", "1")], "key")
    assert again.replayed
    assert list(again.ids) == list(first.ids)
    mixed = await store.publish([item("b", "1"), item("c", "1")], "key")
    assert not mixed.replayed
    assert mixed.ids[0] == first.ids[1]
    assert (await store.describe(["b"]))[0].events == 1
    clock.now -= 1  # a clock that steps back a little forgets nothing
    assert (await store.publish([item("a", "1")], "key")).replayed
    clock.now += 302
    assert not (await store.publish([item("a", "1")], "key")).replayed


async def test_keys_have_a_bound_and_a_refused_one_publishes_nothing(store: Store) -> None:
    published = 0
    with pytest.raises(RateLimited):
        for number in range(1000):
            await store.publish([item("a", "1")], f"key {number}")
            published += 1
    assert 0 < published < 100
    last = store.last_id
    with pytest.raises(RateLimited):
        await store.publish([item("a", "1")], "one more")
    assert store.last_id == last


async def test_sweep_drops_what_became_too_old(store: Store, clock: Clock) -> None:
    for number in range(50):
        await store.publish([item(f"t{number}", "1")])
    assert store.log_bytes > 0
    clock.now += 61
    for _ in range(5):
        store.sweep()
    assert store.log_bytes == 0
    assert store.topic_count == 50
    clock.now += 3600
    store.sweep()
    assert store.topic_count == 0


async def test_checks_are_ok(store: Store) -> None:
    assert set(store.checks().values()) == {"ok"}
