"""Watched topics of the Redis store: replicas are bounded, and still answer for every start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from broker import sse
from broker.events import EventId
from broker.log.start import After, Last, Latest, Since, StoreState, position
from broker.stores.base import PublishOptions, Store
from broker.stores.redis.page_reader import PAGE_ENTRIES
from tests.stores.conftest import StartServer
from tests.support.redis_proxy import RedisProxy
from tests.support.store_harness import RecordingOwner, RedisStoreHarness
from tests.support.waiting import until

MAX_ID = (1 << 128) - 1


def known(store: Store) -> StoreState:
    return store.logs


StartHarness = Callable[..., Awaitable[RedisStoreHarness]]


@pytest.fixture
async def start_harness(start_server: StartServer) -> AsyncIterator[StartHarness]:
    """Starts stores on one server."""
    server = start_server()
    harnesses: list[RedisStoreHarness] = []

    async def start(**limits: Any) -> RedisStoreHarness:
        harness = RedisStoreHarness(server, **limits)
        harnesses.append(harness)
        await harness.store.start(RecordingOwner())
        return harness

    yield start
    for harness in harnesses:
        await harness.store.stop()
        harness.close()


async def publish(harness: RedisStoreHarness, *topics: str, size: int = 10) -> list[EventId]:
    receipt = await harness.store.topics.publish([(topic, sse.lines(b"x" * size)) for topic in topics])
    return list(receipt.ids)


def length_of(harness: RedisStoreHarness, topic: str) -> int:
    log = harness.store._log_table.get(topic)
    return 0 if log is None else len(log)


async def publish_long(harness: RedisStoreHarness, topic: str, pages: int) -> list[EventId]:
    """Fill so many pages of a topic that keeps more events than others."""
    options = PublishOptions(retain_seconds=3600)
    ids: list[EventId] = []
    while len(ids) < pages * PAGE_ENTRIES:
        items = [(topic, sse.lines(b"x"))] * 100
        ids += (await harness.store.topics.publish(items, options=options)).ids
    return ids


async def test_a_topic_may_be_larger_than_the_memory_for_logs(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(max_log_bytes=1000)
    ids = await publish(harness, *["a"] * 8, size=500)
    for start in (Since(0), After(ids[2], ""), After(ids[0], ""), Last(8)):
        (log,) = await harness.store.logs.watch(["a"], start)
        cursor = start.cursor if isinstance(start, After) else 0
        assert [entry.id for entry in log.after(cursor)] == [one for one in ids if one > cursor]
        harness.store.logs.unwatch(["a"])
        other = await publish(harness, "b", size=500)
        await harness.store.logs.watch(["b"], After(other[0] - 1, ""))
        harness.store.logs.unwatch(["b"])


async def test_no_gap_when_a_watched_topic_is_forgotten(start_harness: StartHarness) -> None:
    one, other = await start_harness(max_topics=3), await start_harness()
    (log,) = await other.store.logs.watch(["a"], Latest())
    log.trim_barrier = log.last
    (first,) = await publish(one, "a")
    for number in range(10):
        await publish(one, f"t{number}")
    await one.store.topics.forget()
    (second,) = await publish(one, "a")
    await until(lambda: log.last == second, "it is delivered")
    assert [(entry.id, entry.gap) for entry in log.after(first - 1)] == [(first, None), (second, None)]


async def test_a_refused_subscriber_leaves_nothing_behind(start_server: StartServer) -> None:
    """While the server is gone, subscribers name topics that were never written."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        harness = RedisStoreHarness(server)
        store = harness.store
        await store.start(RecordingOwner())
        proxy.close()
        store._connections.calls._link.abort("gone")  # type: ignore[union-attr]
        store.logs.unwatch(
            [copy.topic for copy in [store.logs.add_watcher(f"t{number}") for number in range(100)]]
        )
        assert len(store._subscribers._changed) == 0
        for number in range(100):
            store.logs.drop(f"t{number}")
        assert (len(store._replicas), len(store._replicas._ahead)) == (0, 0)
        await asyncio.sleep(0)
        await store.stop()
        harness.close()


async def test_entries_before_the_beginning_of_a_replica_are_read(start_harness: StartHarness) -> None:
    """Whatever the first start was, and whatever the log has dropped since, the rest is read from the store."""
    harness = await start_harness()
    ids = await publish(harness, *["a"] * 9)
    for start, expected in (
        (Latest(), []),
        (After(ids[6], ""), ids[7:]),
        (Last(4), ids[5:]),
        (After(ids[2], ""), ids[3:]),
        (Since(0), ids),
        (Last(100), ids),
    ):
        (log,) = await harness.store.logs.watch(["a"], start)
        where = position(
            start,
            ["a"],
            [log],
            known(harness.store),
        )
        assert ([entry.id for entry in log.after(where.cursor)], where.gaps) == (expected, ())
        log.empty()
        assert not log


@pytest.mark.parametrize("topics", [["a"], ["a", "b"]], ids=["one topic", "two topics"])
async def test_i2_no_event_is_missed_while_a_stream_opens(
    start_harness: StartHarness, topics: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event comes after the id that `broker.open` will have, and before this instance follows the topic."""
    harness = await start_harness()
    catch_up = harness.store._catch_up
    sync = catch_up.sync
    missed: list[EventId] = []

    async def sync_and_publish() -> EventId:
        last = await sync()
        if not missed:
            missed.extend(await publish(harness, "a"))
        return last

    pubsub = harness.store._connections.pubsub
    subscribe = pubsub.subscribe

    async def wait_and_subscribe(channel: str) -> None:
        await until(lambda: missed, "the event is published")
        await subscribe(channel)

    def subscribe_later(channel: str) -> asyncio.Future[None]:
        return asyncio.ensure_future(wait_and_subscribe(channel))

    monkeypatch.setattr(catch_up, "sync", sync_and_publish)
    monkeypatch.setattr(pubsub, "subscribe", subscribe_later)
    logs = await harness.store.logs.watch(topics, Latest())
    where = position(Latest(), topics, logs, known(harness.store))
    read = [entry.id for entry in logs[0].after(where.cursor)]
    assert where.cursor >= missed[0] or read == missed


async def test_cursors_of_any_age(start_harness: StartHarness) -> None:
    """Before the store's birth, before its memory, at and after its last id, and malformed."""
    harness = await start_harness()
    ids = await publish(harness, *["a"] * 3)
    harness.advance(3700)  # the topic is forgotten, and its events are too old
    await harness.store.topics.forget()
    (after,) = await publish(harness, "b")
    other = await start_harness()
    for store in (harness.store, other.store):
        for cursor, gaps in (
            (0, ("lost",)),
            (store.logs.born - 1, ("lost",)),
            (ids[0], ("trimmed",)),
            (after, ()),
            (after + 1, ("unknown-id",)),
            (MAX_ID, ("unknown-id",)),
        ):
            start = After(cursor, "")
            for topics in (["a"], ["a", "b"]):
                logs = await store.logs.watch(topics, start)
                where = position(start, topics, logs, known(store))
                assert set(where.gaps) == set(gaps), (cursor, topics)
                store.logs.unwatch(topics)


async def test_i2_all_short_replicas_are_extended_together(start_harness: StartHarness) -> None:
    """Others follow 32 topics live; a subscriber of all of them comes with an older cursor."""
    harness = await start_harness()
    topics = [f"t{number}" for number in range(32)]
    (before,) = await publish(harness, "other")
    missed = await publish(harness, *topics)
    for topic in topics:
        await harness.store.logs.watch([topic], Latest())
    answers = harness.store._connections.calls.answers
    logs = await harness.store.logs.watch(topics, After(before, ""))
    assert [[entry.id for entry in log.after(before)] for log in logs] == [[one] for one in missed]
    assert harness.store._connections.calls.answers - answers < 16


async def test_a_reconnect_reads_many_topics_a_call(start_server: StartServer) -> None:
    harness = RedisStoreHarness(start_server(), max_topics=1000)
    store = harness.store
    await store.start(RecordingOwner())
    topics = [f"t{number}" for number in range(600)]
    for at in range(0, len(topics), 20):
        await store.logs.watch(topics[at : at + 20], Latest())
    answers, generation = store._connections.calls.answers, store._connections.pubsub.generation
    store._connections.pubsub.reset("a test")
    await until(lambda: store._connections.pubsub.generation > generation, "it is connected again")
    await until(lambda: set(store.checks().values()) == {"ok"}, "it is ready again")
    assert store._connections.calls.answers - answers < 60
    (last,) = await publish(harness, topics[-1])
    await harness.settle()
    log = store._log_table.get(topics[-1])
    assert log is not None and log.last == last
    await store.stop()
    harness.close()


async def test_a_long_topic_is_read_on_after_its_reader_left(start_harness: StartHarness) -> None:
    one, other = await start_harness(max_log_bytes=100_000_000), await start_harness()
    ids = await publish_long(other, "a", 12)
    watching = asyncio.create_task(one.store.logs.watch(["a"], Since(0)))
    await until(lambda: length_of(one, "a") > PAGE_ENTRIES, "some of it is read")
    watching.cancel()
    await asyncio.wait([watching])
    await until(lambda: length_of(one, "a") == len(ids), "all of it is read")
    (log,) = await one.store.logs.watch(["a"], Since(0))
    assert [entry.id for entry in log.after(0)] == ids


async def test_the_newest_events_of_a_long_topic_are_read_from_its_end(start_harness: StartHarness) -> None:
    harness = await start_harness()
    ids = await publish_long(harness, "a", 3)
    for count in (1, 7, PAGE_ENTRIES + 5):
        start = Last(count)
        (log,) = await harness.store.logs.watch(["a"], start)
        where = position(start, ["a"], [log], known(harness.store))
        assert [entry.id for entry in log.after(where.cursor)] == ids[-count:]
        assert len(log) < 2 * PAGE_ENTRIES


async def test_a_busy_topic_answers_for_a_cursor_that_its_retention_has_passed(
    start_harness: StartHarness,
) -> None:
    """With each event that comes, its oldest one goes. This instance may not have received the newest ones yet."""
    one, other = await start_harness(), await start_harness()
    (first, *_) = await publish(other, "few", "few", "few", "few")
    await one.store.logs.watch(["few"], Latest())

    async def publish_on() -> None:
        while True:
            await publish(other, "few", "few", "few")

    async def answer() -> tuple[Sequence[str], int]:
        (log,) = await one.store.logs.watch(["few"], After(first, ""))
        where = position(After(first, ""), ["few"], [log], known(one.store))
        return where.gaps, len(list(log.after(where.cursor)))

    publishing = [asyncio.create_task(publish_on()) for _ in range(4)]
    try:
        for _ in range(20):
            gaps, events = await answer()
            assert gaps == ("trimmed",)
            assert events <= 2
    finally:
        for task in publishing:
            task.cancel()
        await asyncio.wait(publishing)
    await one.settle()
    assert await answer() == (("trimmed",), 2)


async def test_a_cursor_on_a_followed_topic_is_answered_at_once(start_harness: StartHarness) -> None:
    """Without a call or a task, the usual case when streams are opened again."""
    harness = await start_harness()
    ids = await publish(harness, "a", "a", "a")
    await harness.settle()
    await harness.store.logs.watch(["a"], Since(0))
    for start in (After(ids[0], ""), Since(0), Last(2)):
        watching = harness.store.logs.watch(["a"], start)
        with pytest.raises(StopIteration) as returned:
            watching.send(None)
        (log,) = returned.value.value
        assert [entry.id for entry in log.after(0)] == ids
