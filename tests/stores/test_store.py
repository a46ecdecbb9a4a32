"""The store's own promises, where they are about its copies: what they may take, and what readers get all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from broker import sse
from broker.events import EventId
from broker.start import After, Last, Latest, Since
from tests.contract.benches import RedisBench
from tests.stores.conftest import StartServer
from tests.stores.way import Way
from tests.web.serving import until

StartBench = Callable[..., Awaitable[RedisBench]]


@pytest.fixture
async def start_bench(start_server: StartServer) -> AsyncIterator[StartBench]:
    """Starts stores on one server."""
    server = start_server()
    benches: list[RedisBench] = []

    async def start(**limits: Any) -> RedisBench:
        bench = RedisBench(server, **limits)
        benches.append(bench)
        await bench.store.start(lambda _topic, _size: True)
        return bench

    yield start
    for bench in benches:
        await bench.store.stop()
        bench.close()


async def publish(bench: RedisBench, *topics: str, size: int = 10) -> list[EventId]:
    receipt = await bench.store.publish([(topic, sse.lines(b"x" * size)) for topic in topics])
    return list(receipt.ids)


async def test_a_topic_larger_than_the_memory_for_logs_can_be_read_all_the_same(
    start_bench: StartBench,
) -> None:
    bench = await start_bench(max_log_bytes=1000)
    ids = await publish(bench, *["a"] * 8, size=500)
    for start in (Since(0), After(ids[2], ""), After(ids[0], ""), Last(8)):
        (log,) = await bench.store.watch(["a"], start)
        cursor = start.cursor if isinstance(start, After) else 0
        assert [entry.id for entry in log.after(cursor)] == [one for one in ids if one > cursor]
        bench.store.unwatch(["a"])
        other = await publish(bench, "b", size=500)
        await bench.store.watch(["b"], After(other[0] - 1, ""))
        bench.store.unwatch(["b"])


async def test_no_gap_when_topics_are_given_up_under_who_watches_them(start_bench: StartBench) -> None:
    one, other = await start_bench(max_topics=3), await start_bench()
    (log,) = await other.store.watch(["a"], Latest())
    log.hold = log.last
    (first,) = await publish(one, "a")
    for number in range(10):
        await publish(one, f"t{number}")
    await one.store._forget()
    (second,) = await publish(one, "a")
    await until(lambda: log.last == second, "it is delivered")
    assert [(entry.id, entry.gap) for entry in log.after(first - 1)] == [(first, None), (second, None)]


async def test_what_a_refused_subscriber_asked_for_does_not_stay(start_server: StartServer) -> None:
    """While the server is gone, each who comes names topics that nobody has written down."""
    server = start_server()
    async with Way(server) as way:
        bench = RedisBench(server)
        store = bench.store
        await store.start(lambda _topic, _size: True)
        way.close()
        store._calls._link.abort("gone")  # type: ignore[union-attr]
        store.unwatch([copy.topic for copy in [store._hold(f"t{number}") for number in range(100)]])
        assert len(store._presence._changed) == 0
        for number in range(100):
            store._drop(f"t{number}")
        assert (len(store._copies), len(store._copies._held_back)) == (0, 0)
        await asyncio.sleep(0)
        await store.stop()
        bench.close()
