"""Topics that end (`stores/base.py`): what every store promises of ends, leases, producers, and retention asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker import sse
from broker.errors import Closed, OutOfOrder
from broker.events import EventId
from broker.log.start import After, Last, Latest, Since, Start, has_seen_all, position
from broker.stores.base import PublishOptions, Receipt, TopicState
from tests.contract.conftest import item
from tests.support.store_harness import RecordingOwner, StoreHarness


async def state(harness: StoreHarness, topic: str = "a") -> TopicState:
    return (await harness.store.topics.describe([topic]))[0]


async def end(harness: StoreHarness, *data: str, topic: str = "a") -> Receipt:
    return await harness.store.topics.publish(
        [item(topic, text) for text in data], None, PublishOptions(ends=[topic])
    )


async def seen(
    harness: StoreHarness, start: Start, *topics: str
) -> tuple[list[tuple[EventId, bool]], Sequence[str]]:
    """A subscription from `start` on: the ids, each with whether it is an end, and the reasons of the gaps at the start."""
    names = topics or ("a",)
    logs = await harness.store.logs.watch(names, start)
    store = harness.store
    where = position(start, names, logs, store.logs)
    floors = where.floors or (where.cursor,) * len(logs)
    read = [
        (entry.id, entry.end)
        for topic, floor in zip(where.topics, floors, strict=False)
        for entry in logs[names.index(topic)].after(floor)
    ]
    store.logs.unwatch(names)
    return sorted(read), where.gaps


async def ends_seen(harness: StoreHarness, cursor: EventId, *topics: str) -> bool:
    start = After(cursor, "")
    names = topics or ("a",)
    store = harness.store
    logs = await store.logs.watch(names, start)
    store.logs.unwatch(names)
    return has_seen_all(start, logs, store.logs)


async def test_events_and_the_end_are_one_step(store: StoreHarness, owner: RecordingOwner) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    before = log.last
    receipt = await end(store, "1", "2")
    await store.settle()
    assert (receipt.closed, len(receipt.ids)) == (True, 2)
    *events, last = log.after(before)
    assert [entry.id for entry in events] == list(receipt.ids)
    assert last.end
    assert last is log.end
    assert last.prev == receipt.ids[-1]
    assert last.id == store.store.logs.last_id
    assert last.frame == sse.end("a", "closed", last.id)
    assert sum(size for _, size in owner.deliveries) == sum(len(entry.frame) for entry in (*events, last))
    shown = await state(store)
    assert (shown.closed, shown.events, shown.last_id) == (True, 2, last.id)


async def test_the_first_ends_reason_stands(store: StoreHarness) -> None:
    topics = store.store.topics
    (log,) = await store.store.logs.watch(["a"], Latest())
    await topics.publish([item("a", "1")], None, PublishOptions(ends=["a"], reason="failed"))
    again = await topics.publish([], None, PublishOptions(ends=["a"], reason="stopped"))
    assert await topics.close("a", "cancelled") == log.last
    await store.settle()
    assert (again.closed, again.ids) == (True, [log.last])
    assert log.end
    assert log.end.frame == sse.end("a", "failed", log.last)
    (again_read,) = await store.store.logs.watch(["a"], After(0, ""))
    assert again_read.end
    assert again_read.end.frame == log.end.frame


async def test_a_reason_is_of_all_topics_that_a_call_ends(store: StoreHarness) -> None:
    logs = await store.store.logs.watch(["a", "b", "c"], Latest())
    await end(store, topic="b")
    options = PublishOptions(ends=["a", "b", "c"], reason="x" * 40)
    assert (await store.store.topics.publish([item("a", "1"), item("c", "1")], None, options)).closed
    await store.settle()
    reasons = ["x" * 40, "closed", "x" * 40]
    for log, topic, reason in zip(logs, ("a", "b", "c"), reasons, strict=True):
        assert log.end
        assert log.end.frame == sse.end(topic, reason, log.end.id)


async def test_a_closed_topic_takes_no_events(store: StoreHarness) -> None:
    await end(store, "1")
    last = store.store.logs.last_id
    for items, asked in (
        ([item("a", "2")], PublishOptions()),
        ([item("b", "1"), item("a", "2")], PublishOptions()),
        ([item("a", "2")], PublishOptions(ends=["a"])),
        ([item("b", "1"), item("a", "2")], PublishOptions(ends=["b"])),
    ):
        with pytest.raises(Closed) as caught:
            await store.store.topics.publish(items, None, asked)
        assert list(caught.value.topics) == ["a"]
    with pytest.raises(Closed):
        await store.store.topics.publish([item("a", "2")], "key")
    assert store.store.logs.last_id == last
    assert not (await state(store, "b")).closed


async def test_closing_without_an_event_and_again_is_fine(store: StoreHarness) -> None:
    (event,) = (await store.store.topics.publish([item("a", "1")])).ids
    first = await end(store)
    assert first.closed
    (end_id,) = first.ids
    assert end_id > event
    again = await end(store)
    assert (again.ids, again.closed, again.replayed) == ([end_id], True, False)
    assert await store.store.topics.close("a", "abandoned") == end_id
    assert await seen(store, After(event, "")) == ([(end_id, True)], ())


async def test_a_topic_without_events_can_be_closed(store: StoreHarness) -> None:
    receipt = await end(store)
    assert await seen(store, Since(0)) == ([(receipt.ids[0], True)], ())
    assert (await state(store)).closed
    assert await store.store.topics.names("", 10) == ["a"]
    with pytest.raises(Closed):
        await store.store.topics.publish([item("a", "1")])
    await store.store.topics.delete("a")
    assert (await store.store.topics.publish([item("a", "1")])).ids
    assert (await state(store)).events == 1


async def test_several_topics_end_together(store: StoreHarness) -> None:
    await end(store, topic="c")
    receipt = await store.store.topics.publish(
        [item("a", "1"), item("b", "2")], None, PublishOptions(ends=["a", "b", "c"])
    )
    assert receipt.closed
    read, gaps = await seen(store, Since(0), "a", "b", "c")
    assert [is_end for _, is_end in read] == [True, False, False, True, True]
    assert [event_id for event_id, is_end in read if not is_end] == list(receipt.ids)
    assert gaps == ()
    assert await ends_seen(store, store.store.logs.last_id, "a", "b", "c")


async def test_only_the_topics_named_end(store: StoreHarness) -> None:
    await store.store.topics.publish([item("a", "1"), item("b", "2")], None, PublishOptions(ends=["a"]))
    assert [one.closed for one in await store.store.topics.describe(["a", "b", "c"])] == [True, False, False]


async def test_a_cursor_at_the_end_lacks_nothing(store: StoreHarness) -> None:
    (event,) = (await end(store, "1")).ids
    end_id = store.store.logs.last_id
    assert not await ends_seen(store, event)
    assert await ends_seen(store, end_id)
    assert not await ends_seen(store, end_id + 1), "ahead of the store"
    assert not await ends_seen(store, end_id, "a", "b"), "the other one goes on"
    (later,) = (await store.store.topics.publish([item("b", "1")])).ids
    assert await ends_seen(store, later)
    assert await seen(store, After(later, ""), "a", "b") == ([], ())


@pytest.mark.parametrize("start", [Since(0), Since(4e9), Last(3), Last(1), After(1 << 127, "")])
async def test_the_end_is_delivered_from_any_start(store: StoreHarness, start: Start) -> None:
    await end(store, "1", "2", "3")
    end_id = store.store.logs.last_id
    read, _ = await seen(store, start)
    assert read[-1] == (end_id, True)
    assert len(read) == {Since(0): 4, Last(3): 4, Last(1): 2}.get(start, 1)


async def test_the_end_outlives_the_events_as_long_as_the_record(store: StoreHarness) -> None:
    ids = (await end(store, *map(str, range(30)))).ids
    end_id = store.store.logs.last_id
    assert (await state(store)).events == 10, "the end doesn't count"
    store.advance(61)
    await store.sweep()
    assert (await state(store)).events == 0
    assert await seen(store, After(ids[-1], "")) == ([(end_id, True)], ())
    assert await seen(store, After(ids[-2], "")) == ([(end_id, True)], ("trimmed",))
    assert await ends_seen(store, end_id)
    store.advance(3605)
    await store.sweep()
    assert not (await state(store)).closed
    assert (await store.store.topics.publish([item("a", "1")])).ids


async def test_delete_opens_the_name_anew(store: StoreHarness) -> None:
    (event,) = (await end(store, "1")).ids
    end_id = store.store.logs.last_id
    await store.store.topics.delete("a")
    assert not (await state(store)).closed
    for cursor, told in ((end_id, ()), (event, ()), (event - 1, ("trimmed",))):
        assert await seen(store, After(cursor, "")) == ([], told)
    again = await end(store, "2")
    await store.settle()
    for cursor in (event, end_id):
        read, gaps = await seen(store, After(cursor, ""))
        assert (read, gaps) == ([(again.ids[0], False), (store.store.logs.last_id, True)], ())


async def test_subscribers_get_each_end_and_the_events_between(store: StoreHarness) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    log.trim_barrier = before = log.last
    await end(store, "1")
    await store.store.topics.delete("a")
    await end(store, "2")
    await store.settle()
    assert [entry.end for entry in log.after(before)] == [False, True, True, False, True]


async def test_a_repeated_key_is_answered_even_if_the_topic_is_closed(store: StoreHarness) -> None:
    first = await store.store.topics.publish([item("a", "1")], "key", PublishOptions(ends=["a"]))
    again = await store.store.topics.publish([item("a", "1")], "key", PublishOptions(ends=["a"]))
    assert (first.closed, first.replayed, again.closed, again.replayed) == (True, False, True, True)
    assert list(again.ids) == list(first.ids)


async def test_a_key_changes_nothing_where_there_is_no_event(store: StoreHarness) -> None:
    for _ in range(2):
        receipt = await store.store.topics.publish([], "key", PublishOptions(ends=["a", "b"]))
        assert (receipt.closed, receipt.replayed) == (True, False)
        assert list(receipt.ids) == [(await state(store, topic)).last_id for topic in ("a", "b")]


async def test_a_repeated_key_closes_no_topic_that_its_first_call_left_open(store: StoreHarness) -> None:
    await store.store.topics.publish([item("a", "1")], "key")
    again = await store.store.topics.publish(
        [item("a", "1"), item("b", "1")], "key", PublishOptions(ends=["a", "b"])
    )
    assert (again.replayed, again.closed) == (False, False)
    assert [one.closed for one in await store.store.topics.describe(["a", "b"])] == [False, True]


async def test_close_with_if_last_closes_only_a_topic_that_has_not_moved_on(store: StoreHarness) -> None:
    assert await store.store.topics.close("a", "abandoned", if_last=1) is None
    (first,) = (await store.store.topics.publish([item("a", "1")])).ids
    (second,) = (await store.store.topics.publish([item("a", "2")])).ids
    assert await store.store.topics.close("a", "abandoned", if_last=first) is None
    assert not (await state(store)).closed
    end_id = await store.store.topics.close("a", "abandoned", if_last=second)
    assert end_id == store.store.logs.last_id
    (log,) = await store.store.logs.watch(["a"], Since(0))
    assert log.end is not None
    assert b'"reason":"abandoned"' in log.end.frame


# Leases


async def test_a_topic_is_abandoned_unless_its_lease_is_renewed(store: StoreHarness) -> None:
    await store.store.topics.publish([item("a", "1")])
    for topic in ("a", "never-published", "renewed", "given-up", "deleted"):
        await store.store.topics.lease(topic, 10)
    await store.store.topics.lease("renewed", 30)
    await store.store.topics.lease("renewed", 5)
    await store.store.topics.lease("given-up", None)
    await store.store.topics.delete("deleted")
    store.advance(11)
    await store.sweep()
    names = ("a", "never-published", "renewed", "given-up", "deleted")
    assert [one.closed for one in await store.store.topics.describe(names)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    (log,) = await store.store.logs.watch(["a"], Since(0))
    assert log.end is not None
    assert b'"reason":"abandoned"' in log.end.frame
    store.advance(20)
    await store.sweep()
    assert (await state(store, "renewed")).closed


async def test_a_closed_topic_has_no_lease(store: StoreHarness) -> None:
    await store.store.topics.lease("a", 10)
    await end(store, "1")
    await store.store.topics.lease("a", 10)
    await store.store.topics.delete("a")
    await store.store.topics.publish([item("a", "2")])
    store.advance(11)
    await store.sweep()
    assert not (await state(store)).closed


async def test_no_lease_outlives_the_end_of_its_topic(store: StoreHarness) -> None:
    """Nor is one taken of a topic that has ended: the name may come up again, as another stream."""
    await store.store.topics.lease("a", 10_000)
    for topic in "ab":
        await end(store, "1", topic=topic)
    await store.store.topics.lease("b", 10_000)
    store.advance(3605)
    await store.sweep()
    await store.store.topics.publish([item("a", "2"), item("b", "2")])
    store.advance(7000)
    await store.sweep()
    assert [one.closed for one in await store.store.topics.describe(["a", "b"])] == [False, False]


# Producers


async def produce(
    harness: StoreHarness, first: int, *data: str, ends: bool = False, name: str = "p"
) -> Receipt:
    asked = PublishOptions(["a"] if ends else [], (name, first))
    return await harness.store.topics.publish([item("a", text) for text in data], None, asked)


async def test_repeated_events_of_a_producer_count_once(store: StoreHarness) -> None:
    first = await produce(store, 1, "1", "2", "3")
    again = await produce(store, 2, "2", "3", "4", "5")
    assert (first.known, len(first.ids), again.known, len(again.ids)) == (0, 3, 2, 2)
    receipt = await produce(store, 1, "1", "2")
    assert (receipt.ids, receipt.known) == ([], 2)
    assert (await state(store)).events == 5
    assert (await produce(store, 6, "6")).known == 0


async def test_a_hole_in_a_sequence_is_refused_with_the_expected_number(store: StoreHarness) -> None:
    await produce(store, 1, "1", "2")
    last = store.store.logs.last_id
    for first, name, expected in ((4, "p", 3), (2, "other", 1)):
        with pytest.raises(OutOfOrder) as caught:
            await produce(store, first, "x", name=name)
        assert caught.value.extra == {"expected": expected}
    with pytest.raises(OutOfOrder):
        await produce(store, 4, ends=True)
    assert store.store.logs.last_id == last
    assert not (await state(store)).closed


async def test_producers_of_one_topic_count_each_for_itself(store: StoreHarness) -> None:
    await produce(store, 1, "1", name="p")
    await produce(store, 1, "1", "2", name="q")
    assert (await produce(store, 2, "2", name="p")).known == 0
    assert (await produce(store, 3, "3", name="q")).known == 0
    assert (await state(store)).events == 5


async def test_the_producer_that_published_longest_ago_is_forgotten(store: StoreHarness) -> None:
    for number in range(16):
        await produce(store, 1, "1", name=f"p{number}")
    await produce(store, 2, "2", name="p0")
    await produce(store, 1, "1", name="one-more")
    assert (await produce(store, 2, "2", name="p0")).known == 1
    with pytest.raises(OutOfOrder):
        await produce(store, 2, "2", name="p1")


async def test_a_closed_sequence_may_be_repeated_but_not_continued(store: StoreHarness) -> None:
    await produce(store, 1, "1", "2", ends=True)
    again = await produce(store, 1, "1", "2", ends=True)
    assert (again.known, list(again.ids), again.closed) == (2, [], True)
    assert (await produce(store, 3, ends=True)).closed
    with pytest.raises(Closed):
        await produce(store, 3, "3")
    await store.store.topics.delete("a")
    assert (await produce(store, 1, "1")).known == 0


# Retention asked for


async def retain(harness: StoreHarness, seconds: float, *data: str) -> Receipt:
    return await harness.store.topics.publish(
        [item("a", text) for text in data], None, PublishOptions(retain_seconds=seconds)
    )


async def test_the_first_publish_decides_the_retention_of_its_topic(store: StoreHarness) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    first = await retain(store, 600, *map(str, range(30)))
    await store.store.topics.publish([item("a", "x")])
    await retain(store, 1, "y")
    await store.settle()
    store.advance(500)
    await store.sweep()
    store.store.logs.trim("a")
    assert (await state(store)).events == 32
    assert len(log) == 32
    assert (await seen(store, After(first.ids[0], "")))[1] == ()
    store.advance(101)
    assert (await state(store)).events == 0


async def test_a_later_publish_does_not_change_the_retention(store: StoreHarness) -> None:
    await store.store.topics.publish([item("a", "0")])
    await retain(store, 600, "1")
    store.advance(61)
    assert (await state(store)).events == 0
    await store.store.topics.delete("a")
    await retain(store, 600, "2")
    store.advance(61)
    assert (await state(store)).events == 1
    await store.store.topics.delete("a")
    await store.store.topics.publish([item("a", "3")])
    store.advance(61)
    assert (await state(store)).events == 0
