"""The contract of a store (`stores/base.py`), on every store there is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import pytest

from broker import sse
from broker.errors import Closed, RateLimited
from broker.events import id_seconds
from broker.log.start import After, Latest, Since
from broker.stores.base import TopicState
from tests.contract.conftest import item
from tests.support.store_harness import RecordingOwner, StoreHarness
from tests.support.waiting import WAIT_SECONDS


async def test_ids_strictly_increase_over_all_topics(store: StoreHarness) -> None:
    ids: list[int] = []
    for step in (0, 1, -10, 0, 5):
        store.advance(step)
        ids += (await store.store.topics.publish([item("a", "1"), item("b", "2"), item("a", "3")])).ids
    assert ids == sorted(set(ids))
    assert store.store.logs.last_id == ids[-1]
    assert ids[0] > store.store.logs.born
    assert id_seconds(ids[0]) - id_seconds(store.store.logs.born) < 60, "it was born just now"


async def test_watched_log_grows_and_is_delivered(store: StoreHarness, owner: RecordingOwner) -> None:
    await store.store.topics.publish([item("a", "before")])
    assert owner.deliveries == []
    (log,) = await store.store.logs.watch(["a"], Since(0))
    assert len(log) == 1
    ids = (await store.store.topics.publish([item("a", "1"), item("b", "x"), item("a", "2")])).ids
    await store.settle()
    frames = [sse.frame(sse.lines(text), ids[index]) for text, index in ((b"1", 0), (b"2", 2))]
    assert [entry.frame for entry in log.after(ids[0] - 1)] == frames
    assert [call for call in owner.deliveries if call[1]] == [("a", sum(map(len, frames)))]
    assert store.store.logs.complete_to >= ids[-1]


@pytest.mark.parametrize("ago", [0.0, 5.0])
async def test_the_moment_of_publishing_is_delivered_with_the_events(
    store: StoreHarness, owner: RecordingOwner, ago: float
) -> None:
    """A step of the clock that ids come from doesn't change it. Only a publish has one."""
    await store.store.logs.watch(["a"], Latest())
    for step in (0, 7200, -3600):
        store.advance(step)
        before = time.monotonic()
        await store.store.topics.publish([item("a", "1"), item("a", "2")], published_at=before - ago)
        await store.settle()
        delivered = [at for (_, size), at in zip(owner.deliveries, owner.published_at, strict=True) if size]
        assert abs(delivered[-1] - (before - ago)) < 0.01
    await store.store.topics.delete("a")
    await store.settle()
    assert owner.published_at[-1] == 0


async def test_without_a_moment_of_publishing_it_is_now(store: StoreHarness, owner: RecordingOwner) -> None:
    await store.store.logs.watch(["a"], Latest())
    before = time.monotonic()
    await store.store.topics.publish([item("a", "1")])
    await store.settle()
    assert before - 0.01 <= max(owner.published_at) <= time.monotonic()


async def test_a_few_events_are_published_at_once_or_not_at_all(store: StoreHarness) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    events = [lines for _, lines in (item("a", "1"), item("a", "2"))]
    last_id = store.store.topics.publish_at_once("a", events)
    await store.settle()
    found = [(entry.id, entry.frame) for entry in log.after(0)]
    ids = [] if last_id is None else [last_id - 1, last_id]
    assert found == [
        (event_id, sse.frame(lines, event_id)) for event_id, lines in zip(ids, events, strict=False)
    ]
    await store.store.topics.close("a", "done")
    await store.settle()
    entries = len(log)
    with contextlib.suppress(Closed):
        assert store.store.topics.publish_at_once("a", events) is None, "a closed topic gets no event"
    await store.settle()
    assert len(log) == entries


async def test_a_topic_is_watched_until_every_watch_is_taken_back(
    store: StoreHarness, owner: RecordingOwner
) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    assert (await store.store.logs.watch(["a"], Latest()))[0] is log
    store.store.logs.unwatch(["a"])
    await store.store.topics.publish([item("a", "1")])
    await store.settle()
    assert len(owner.deliveries) == 1


async def test_prev_names_the_entry_before(store: StoreHarness) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    before = log.last
    ids = (await store.store.topics.publish([item("a", "1"), item("b", "x"), item("a", "2")])).ids
    await store.settle()
    assert [entry.prev for entry in log.after(before)] == [before, ids[0]]


async def test_retention(store: StoreHarness) -> None:
    await store.store.topics.publish([item("a", str(number)) for number in range(30)])
    assert (await store.store.topics.describe(["a"]))[0].events == 10
    await store.store.topics.publish([item("a", "x" * 4000) for _ in range(5)])
    (state,) = await store.store.topics.describe(["a"])
    assert (state.events, state.bytes <= 10_000) == (2, True)
    store.advance(61)
    (state,) = await store.store.topics.describe(["a"])
    assert (state.events, state.bytes, state.first_id) == (0, 0, None)
    assert state.last_id == store.store.logs.last_id


async def test_a_log_with_a_reader_is_not_trimmed_before_it_is_written(store: StoreHarness) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    log.trim_barrier = log.last
    start = log.last
    await store.store.topics.publish([item("a", str(number)) for number in range(30)])
    await store.settle()
    assert len(list(log.after(start))) == 30
    log.trim_barrier = log.last
    store.store.logs.trim("a")
    assert len(log) == 10


async def test_counts_of_this_instance_are_not_counts_elsewhere(store: StoreHarness) -> None:
    store.store.counters.set_count("address 203.0.113.7", 2)
    assert await store.store.counters.counts_elsewhere(["address 203.0.113.7", "other"]) == [0, 0]
    store.store.counters.set_count("address 203.0.113.7", 0)


async def test_delete(store: StoreHarness, owner: RecordingOwner) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    log.trim_barrier = log.last
    (last,) = (await store.store.topics.publish([item("a", "1")])).ids
    await store.store.topics.delete("a")
    await store.settle()
    assert store.store.logs.last_id > last
    *_, end = log.after(last)
    assert end.end
    assert end.id == store.store.logs.last_id
    assert end.frame == sse.end("a", "deleted", end.id)
    assert [topic for topic, _ in owner.deliveries] == ["a", "a"]
    assert (await store.store.topics.describe(["a"]))[0].events == 0
    assert log.has_gap(last - 1)
    assert not log.has_gap(last)


async def test_deleting_an_unknown_topic_does_nothing(store: StoreHarness) -> None:
    await store.store.topics.delete("a")
    assert await store.store.topics.names("", 10) == []


async def test_names_of_topics(store: StoreHarness) -> None:
    for name in ("c", "a", "b"):
        await store.store.topics.publish([item(name, "1")])
    await store.store.logs.watch(["d"], Latest())
    assert await store.store.topics.names("", 10) == ["a", "b", "c", "d"]
    assert await store.store.topics.names("a", 2) == ["b", "c"]
    store.store.logs.unwatch(["d"])
    assert await store.store.topics.names("c", 10) == []


async def test_a_deleted_topic_is_listed_again_once_it_is_used(store: StoreHarness) -> None:
    async def listed() -> Sequence[str]:
        names = await store.store.topics.names("", 10)
        assert await store.store.topics.count() == len(names)
        return names

    for name in ("a", "b", "_stats"):
        await store.store.topics.publish([item(name, "1")])
    await store.store.topics.delete("_stats")
    assert await listed() == ["a", "b"]
    await store.store.topics.delete("a")
    await store.store.topics.delete("a")
    assert await listed() == ["b"]
    await store.store.topics.publish([item("a", "2")])
    assert await listed() == ["a", "b"]
    await store.store.topics.delete("a")
    await store.store.topics.close("a", "closed")
    assert await listed() == ["a", "b"]
    await store.store.topics.delete("a")
    await store.sweep()
    assert await listed() == ["b"]


async def test_a_deleted_topic_is_listed_while_it_is_watched(store: StoreHarness) -> None:
    await store.store.topics.publish([item("a", "1")])
    await store.store.logs.watch(["a"], Latest())
    await store.store.topics.delete("a")
    await store.settle()
    assert await store.store.topics.names("", 10) == ["a"]
    store.store.logs.unwatch(["a"])
    assert await store.store.topics.names("", 10) == []
    await store.store.logs.watch(["a"], Latest())
    assert await store.store.topics.names("", 10) == ["a"]
    store.store.logs.unwatch(["a"])
    assert await store.store.topics.names("", 10) == []


async def test_topics_that_come_and_go_between_pages_of_names_move_no_other(store: StoreHarness) -> None:
    for name in "bdfhj":
        await store.store.topics.publish([item(name, "1")])
    await store.store.logs.watch(["e"], Latest())
    assert await store.store.topics.names("", 2) == ["b", "d"]
    await store.store.topics.publish([item("a", "1")])
    await store.store.topics.publish([item("g", "1")])
    store.store.logs.unwatch(["e"])
    assert await store.store.topics.names("d", 3) == ["f", "g", "h"]
    assert await store.store.topics.names("e", 1) == ["f"], "a page begins also after a name that is gone"


async def test_a_key_counts_once_in_each_topic(store: StoreHarness) -> None:
    first = await store.store.topics.publish([item("a", "1"), item("b", "1")], "key")
    assert not first.replayed
    again = await store.store.topics.publish([item("a", "1"), item("b", "1")], "key")
    assert again.replayed
    assert list(again.ids) == list(first.ids)
    mixed = await store.store.topics.publish([item("b", "1"), item("c", "1")], "key")
    assert not mixed.replayed
    assert mixed.ids[0] == first.ids[1]
    assert (await store.store.topics.describe(["b"]))[0].events == 1
    await store.sweep()
    store.advance(-1)  # a clock that steps back a little forgets nothing
    assert (await store.store.topics.publish([item("a", "1")], "key")).replayed
    store.advance(302)
    assert not (await store.store.topics.publish([item("a", "1")], "key")).replayed


async def test_keys_have_a_bound_and_a_refused_one_publishes_nothing(store: StoreHarness) -> None:
    published = 0
    with pytest.raises(RateLimited):
        for number in range(1000):
            await store.store.topics.publish([item("a", "1")], f"key {number}")
            published += 1
    assert 0 < published < 100
    last = store.store.logs.last_id
    with pytest.raises(RateLimited):
        await store.store.topics.publish([item("a", "1")], "one more")
    assert store.store.logs.last_id == last


async def test_a_sweep_drops_expired_events(store: StoreHarness) -> None:
    names = [f"t{number:02}" for number in range(50)]
    for name in names:
        await store.store.topics.publish([item(name, "1")])
    await store.store.logs.watch(["t00"], Since(0))
    assert store.store.stats.log_bytes > 0
    store.advance(61)
    await store.sweep()
    assert store.store.stats.log_bytes == 0
    assert {state.events for state in await store.store.topics.describe(names)} == {0}
    assert await store.store.topics.names("", 100) == names
    store.advance(3605)
    await store.sweep()
    assert await store.store.topics.names("", 100) == ["t00"], "it is watched"


async def test_a_watch_reaches_back_to_its_cursor(store: StoreHarness) -> None:
    ids = [(await store.store.topics.publish([item("a", str(number))])).ids[0] for number in range(9)]
    for cursor in (ids[-1], ids[4], ids[6], ids[0], store.store.logs.born):
        (log,) = await store.store.logs.watch(["a"], After(cursor, ""))
        assert [entry.id for entry in log.after(cursor)] == [one for one in ids if one > cursor]
        assert not log.has_gap(cursor)


async def test_trimmed_events_are_a_gap(store: StoreHarness) -> None:
    ids = [(await store.store.topics.publish([item("a", str(number))])).ids[0] for number in range(30)]
    for cursor, has_gap in ((ids[-1], False), (ids[19], False), (ids[18], True), (ids[0], True)):
        (log,) = await store.store.logs.watch(["a"], After(cursor, ""))
        assert log.has_gap(cursor) is has_gap
        assert [entry.id for entry in log.after(cursor)] == [one for one in ids[20:] if one > cursor]


async def test_a_silent_topic_has_no_gap_and_a_trimmed_one_has(store: StoreHarness) -> None:
    ids = (await store.store.topics.publish([item("a", "1"), item("a", "2")])).ids
    store.advance(61)
    (log,) = await store.store.logs.watch(["a", "b"][:1], After(ids[0], ""))
    assert log.has_gap(ids[0])
    (log,) = await store.store.logs.watch(["a"], After(ids[1], ""))
    assert not log.has_gap(ids[1])
    (silent,) = await store.store.logs.watch(["b"], After(ids[0], ""))
    assert not silent.has_gap(ids[0])
    (after,) = (await store.store.topics.publish([item("a", "3")])).ids
    await store.settle()
    assert [entry.id for entry in log.after(ids[1])] == [after]
    assert not log.has_gap(ids[1])


async def test_a_watch_from_latest_starts_after_all_acknowledged_events(store: StoreHarness) -> None:
    (before,) = (await store.store.topics.publish([item("a", "1")])).ids
    await store.store.logs.watch(["a"], Latest())
    assert store.store.logs.last_id >= before


async def test_several_topics_are_complete_up_to_all_acknowledged_events(store: StoreHarness) -> None:
    ids = (await store.store.topics.publish([item("a", "1"), item("b", "2")])).ids
    logs = await store.store.logs.watch(["a", "b"], Since(0))
    assert store.store.logs.complete_to >= ids[-1]
    assert [[entry.id for entry in log.after(0)] for log in logs] == [[ids[0]], [ids[1]]]


async def test_subscribers_are_counted(store: StoreHarness) -> None:
    await store.store.logs.watch(["a"], Latest())
    await store.store.logs.watch(["a", "b"], Latest())
    store.store.logs.unwatch(["b"])
    assert [state.subscribers for state in await store.store.topics.describe(["a", "b", "c"])] == [2, 0, 0]


async def test_a_topic_is_described(store: StoreHarness) -> None:
    ids = (await store.store.topics.publish([item("a", "1"), item("b", "x"), item("a", "2")])).ids
    size = sum(len(sse.frame(sse.lines(text), at)) for text, at in ((b"1", ids[0]), (b"2", ids[2])))
    await store.store.logs.watch(["watched"], Latest())
    assert list(await store.store.topics.describe(["a", "watched", "unknown"])) == [
        TopicState("a", 0, 2, size, ids[0], ids[2]),
        TopicState("watched", 1, 0, 0, None, None),
        TopicState("unknown", 0, 0, 0, None, None),
    ]


async def test_a_deleted_topic_has_the_retention_of_its_override_again(store: StoreHarness) -> None:
    for _ in range(2):
        await store.store.topics.publish([item("few", str(number)) for number in range(5)])
        assert (await store.store.topics.describe(["few"]))[0].events == 2
        await store.store.topics.delete("few")


async def test_checks_are_ok(store: StoreHarness) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while set(store.store.checks().values()) != {"ok"}:  # its listener may still be on its way
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("until", [None, 4_000_000_000.0])
async def test_the_sender_of_a_broadcast_gets_it_once(
    store: StoreHarness, owner: RecordingOwner, until: float | None
) -> None:
    await store.store.broadcast.send('{"do": "something"}', until)
    await store.settle()
    assert owner.commands == ['{"do": "something"}']
