"""Counts over all instances of a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broker.errors import Unavailable
from broker.stores.redis import counters
from broker.stores.redis.counters import RedisCounters
from broker.stores.redis.names import Names
from broker.stores.redis.task_owner import TaskOwner
from tests.stores.fake_server import StartPipeline
from tests.support.patience import own_timeouts
from tests.support.redis_servers import Server
from tests.support.waiting import WAIT_SECONDS, until

INSTANCES = "test:{b}:instances:held"
READ_SECONDS = counters.PERIOD_SECONDS  # before the fixture shortens it


@pytest.fixture
async def pair(
    empty_server: Server, start_pipeline: StartPipeline, monkeypatch: pytest.MonkeyPatch
) -> tuple[RedisCounters, RedisCounters]:
    """The counters of two instances, which write at once."""
    monkeypatch.setattr(counters, "PERIOD_SECONDS", 0.01)
    one, other = (
        RedisCounters(Names("test:", 0, name), start_pipeline(empty_server.url), "held")
        for name in ("one", "other")
    )
    return one, other


async def until_counts(counters: RedisCounters, names: Sequence[str], expected: Sequence[int]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await counters.counts(names) != expected:
            await asyncio.sleep(0.005)


Counting = tuple[RedisCounters, RedisCounters, TaskOwner]


@pytest.fixture
async def counting(pair: tuple[RedisCounters, RedisCounters]) -> AsyncIterator[Counting]:
    """The pair: the first writes its counts, by a task of the owner, and the second knows that it counts 2 for `a`."""
    one, other = pair
    tasks = TaskOwner()
    tasks.spawn(one.run())
    one.set_count("a", 2)
    await until_counts(other, ["a"], [2])
    yield one, other, tasks
    await tasks.stop()


async def test_counts_are_summed_over_instances(pair: tuple[RedisCounters, RedisCounters]) -> None:
    one, other = pair
    tasks, others = TaskOwner(), TaskOwner()
    tasks.spawn(one.run())
    others.spawn(other.run())
    one.set_count("a", 2)
    other.set_count("a", 3)
    other.set_count("b", 1)
    await until_counts(one, ["a", "b", "c"], [5, 1, 0])
    assert await one.counts_elsewhere(["a", "b"]) == [3, 1]
    assert await one.names_after("", 10) == ["a", "b"]
    other.set_count("a", 0)
    await until_counts(one, ["a", "b"], [2, 1])
    await others.stop()
    await other.leave()
    assert await one.counts(["a", "b"]) == [2, 0]
    await tasks.stop()


async def test_an_instance_whose_counts_expired_is_removed(
    pair: tuple[RedisCounters, RedisCounters], empty_server: Server
) -> None:
    one, _ = pair
    with empty_server.client() as client:
        client.sadd(INSTANCES, "gone")
        assert await one.counts(["a"]) == [0]
        assert client.smembers(INSTANCES) == set()


async def test_counts_are_written_again_on_a_new_connection(counting: Counting, empty_server: Server) -> None:
    """The server may be another one, or have lost them."""
    _, other, _ = counting
    with empty_server.client() as client:
        client.flushall()
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    await until_counts(other, ["a"], [2])


async def test_the_counts_of_a_killed_instance_are_soon_gone(
    counting: Counting, empty_server: Server
) -> None:
    """Contract §4: counts are at most 2 s old. The server keeps nothing of an instance that is gone."""
    _, other, tasks = counting
    with own_timeouts(), empty_server.client() as client:
        await until(
            lambda: client.pttl("test:{b}:held:one") + 1000 * READ_SECONDS <= 2000,
            "the next write puts it off",
        )
        assert client.ttl("test:{b}:held:one") != -1
        assert 0 < client.pttl(INSTANCES) <= 60_000
        await tasks.stop()
    await until_counts(other, ["a"], [0])


async def test_all_counts_are_written_again_if_they_have_expired(
    counting: Counting, empty_server: Server
) -> None:
    one, other, _ = counting
    with empty_server.client() as client:
        client.delete("test:{b}:held:one")
    one.set_count("b", 1)
    await until_counts(other, ["a", "b"], [2, 1])


async def test_all_counts_are_written_again_if_they_expire_between_two_commands(
    counting: Counting, empty_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command found them, so it put off their expiry; the second writes one of them."""
    one, other, _ = counting
    command, lost = one._pipeline.command, False

    async def lose_before(*arguments: Any, **options: Any) -> Any:
        nonlocal lost
        if "b" in arguments and not lost:
            lost = True
            with empty_server.client() as client:
                client.delete("test:{b}:held:one")
        return await command(*arguments, **options)

    monkeypatch.setattr(one._pipeline, "command", lose_before)
    one.set_count("b", 1)
    await until_counts(other, ["a", "b"], [2, 1])


async def test_counts_are_written_if_the_servers_memory_is_full(
    pair: tuple[RedisCounters, RedisCounters], empty_server: Server
) -> None:
    """Otherwise a client that fills it could exceed the limits of its address."""
    one, other = pair
    tasks = TaskOwner()
    with empty_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            tasks.spawn(one.run())
            one.set_count("a", 2)
            await until_counts(other, ["a"], [2])
        finally:
            client.config_set("maxmemory", 0)
    await tasks.stop()


async def test_names_that_were_never_written_are_forgotten(start_pipeline: StartPipeline) -> None:
    """Without a server, the names of refused subscribers must not pile up."""
    lonely = RedisCounters(Names("test:", 0, "one"), start_pipeline("unix:///nowhere"), "held")
    for number in range(100):
        lonely.set_count(f"t{number}", 1)
        lonely.set_count(f"t{number}", 0)
    assert len(lonely._changed) == 0
    with pytest.raises(Unavailable):
        await lonely._pipeline.command("PING", seconds=0.01)


async def test_many_names_are_read_once_for_all_pages(
    pair: tuple[RedisCounters, RedisCounters], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "NAMES_SECONDS", WAIT_SECONDS)  # on a busy machine a page may take a second
    monkeypatch.setattr(counters, "LIFE_MS", 1000 * WAIT_SECONDS)
    one, other = pair
    tasks = TaskOwner()
    tasks.spawn(other.run())
    names = [f"t{number:05}" for number in range(5000)]
    for name in reversed(names):
        other.set_count(name, 1)
    one.set_count(names[0], 1)
    one.set_count("u", 1)
    # The server has them once all are written, 500 at a time, in any order.
    await until_counts(one, [*names, "u"], [2, *[1] * 4999, 1])
    await other._pipeline.command("CONFIG", "RESETSTAT")
    pages = await asyncio.gather(*(one.names_after(after, 1000) for after in ("", "t00999", "t04899")))
    assert pages == [names[:1000], names[1000:2000], [*names[4900:], "u"]]
    one.set_count("u", 0)
    assert await one.names_after("t04998", 10) == ["t04999"], "its own are the present ones"
    statistics = (await other._pipeline.command("INFO", "commandstats")).decode()
    assert re.findall(r"cmdstat_hkeys:calls=(\d+)", statistics) == ["1"]
    await tasks.stop()
