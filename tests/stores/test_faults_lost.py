"""A store that went back: every cursor that lost events gets one gap, in its place, and no other cursor does."""

from __future__ import annotations

import pytest

from broker.events import EventId, parse_id
from broker.stores.redis.scripts import load
from tests.stores.brokers import (
    BOTH,
    Older,
    Publisher,
    StartBroker,
    StartPair,
    alone_and_both,
    both_with_one,
    expect_all_taken,
    numbers,
    until_ready,
)
from tests.stores.conftest import Replicated, StartServer
from tests.support.event_stream import AsyncStream
from tests.support.redis_proxy import RedisProxy
from tests.support.store_harness import OFFSET, with_offset
from tests.support.waiting import until

LOST = {4, 5, 6}


def number(text: str) -> EventId:
    event_id = parse_id(text)
    assert event_id is not None
    return event_id


async def both_have(stream: AsyncStream, publisher: Publisher) -> None:
    await expect_all_taken(stream, publisher)
    assert set(stream.gaps()) == {"lost"}


async def test_restarted_from_an_older_file(
    start_server: StartServer, start_broker: StartBroker, start_pair: StartPair
) -> None:
    server = start_server()
    one, other = await start_pair(server.url)
    streams = [*await alone_and_both(one), *await alone_and_both(other)]
    silent = await other.subscribe("/topics/silent")
    publisher = Publisher(one)
    await publisher.some(3)
    older = Older(server)
    await publisher.some(3)
    for stream in streams:
        await expect_all_taken(stream, publisher)
    cursors = [event.id for event in streams[0].published()]
    older.load()
    await publisher.until_taken()
    await publisher.some(2)
    for stream in streams:
        await both_have(stream, publisher)
        place = [event.type == "broker.gap" for event in stream.events if event.type != "broker.open"]
        assert place == [False] * 6 + [True] * place.count(True) + [False] * 3, "after the loss"
    await silent.until(lambda: silent.gaps())
    await until_ready(one, other)
    for target in ("/topics/a", BOTH):
        for broker in (one, other, await start_broker(server.url)):
            for cursor, seen in zip(cursors, range(6), strict=True):
                back = await broker.subscribe(target, Last_Event_ID=cursor)
                await back.until(lambda back=back: numbers(back)[-1:] == [publisher.number])  # type: ignore[misc]
                assert set(back.gaps()) == {"lost"}, (target, seen)
                expected = [one for one in publisher.taken if one > seen + 1]
                assert [one for one in numbers(back) if one not in LOST] == [
                    one for one in expected if one not in LOST
                ], "a subscriber that received lost events may still have them"


async def test_a_lost_cursor_in_a_topic_with_a_lost_record(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    """Another subscriber has opened the topic, so this instance has a replica that begins after the loss."""
    server = start_server()
    one = await start_broker(server.url)
    await one.publish("other", "x")
    older = Older(server)
    cursor = await one.publish("new", "seen")
    await one.publish("new", "lost")
    older.load()
    await until_ready(one)
    first = await one.subscribe("/topics/new")
    assert (await first.event(1)).type == "broker.open"
    back = await one.subscribe("/topics/new", Last_Event_ID=cursor)
    await one.publish("new", "now")
    assert await back.data(1) == ["now"]
    assert back.gaps() == ["lost"]
    assert await first.data(1) == ["now"]
    assert first.gaps() == []


@pytest.mark.parametrize("goes_on", [False, True], ids=["at once", "after it went on"])
async def test_an_instance_that_had_seen_less_learns_of_the_loss(
    start_server: StartServer, start_pair: StartPair, goes_on: bool
) -> None:
    """It was disconnected during the publishes that are lost, and reconnects first."""
    server = start_server()
    async with RedisProxy(server) as proxy, RedisProxy(server) as far_proxy:
        one, other = await start_pair(proxy.url, far_proxy.url)
        streams = await alone_and_both(other)
        publisher = Publisher(one)
        await publisher.some(3)
        for stream in streams:
            await stream.until(lambda stream=stream: numbers(stream) == [1, 2, 3])  # type: ignore[misc]
        older = Older(server)
        far_proxy.close()
        await publisher.some(3)
        proxy.close()
        older.load()
        far_proxy.open()
        await until_ready(other)
        if goes_on:
            alone = Publisher(other, "b")
            await alone.some(2)
            await streams[1].until(lambda: len(numbers(streams[1])) == 5)
        proxy.open()
        await until_ready(one)
        await publisher.until_taken()
        await publisher.some(2)
        for stream in streams:
            await stream.until(lambda stream=stream: numbers(stream)[-1] == publisher.number)  # type: ignore[misc]
            assert set(numbers(stream)) == set(publisher.taken) - LOST
            assert (
                len(numbers(stream))
                == len(publisher.taken) - len(LOST) + (stream is streams[1] and goes_on) * 2
            )
            assert stream.gaps() == ["lost"] * (2 if stream is streams[1] else 1)


async def test_a_clean_restart_makes_no_gap(
    start_server: StartServer, start_broker: StartBroker, start_pair: StartPair
) -> None:
    server = start_server()
    one, other = await start_pair(server.url)
    streams = [*await alone_and_both(one), *await alone_and_both(other)]
    publisher = Publisher(one)
    await publisher.some(5)
    for _ in range(2):
        for stream in streams:
            await expect_all_taken(stream, publisher)
        server.restart(keep_data=True)
        await publisher.until_taken()
        await publisher.some(2)
    for stream in streams:
        await expect_all_taken(stream, publisher)
        assert stream.gaps() == []
    seen = streams[0].published()
    await until_ready(one, other)
    for target in ("/topics/a", BOTH):
        for broker in (one, other, await start_broker(server.url)):
            for index, event in enumerate(seen[:-1]):
                back = await broker.subscribe(target, Last_Event_ID=event.id)
                await back.until(lambda back=back: numbers(back)[-1:] == [publisher.number])  # type: ignore[misc]
                assert (numbers(back), back.gaps()) == (numbers(streams[0])[index + 1 :], [])


async def test_flushall_with_returning_cursors(
    start_server: StartServer, start_broker: StartBroker, start_pair: StartPair
) -> None:
    server = start_server()
    one, other = await start_pair(server.url)
    stream = await one.subscribe("/topics/a")
    publisher = Publisher(one)
    await publisher.some(3)
    await expect_all_taken(stream, publisher)
    cursors = [event.id for event in stream.published()]
    with server.client() as client:
        client.flushall()
    for broker in (other, one, await start_broker(server.url)):
        for target in ("/topics/a", BOTH):
            for cursor in cursors:
                back = await broker.subscribe(target, Last_Event_ID=cursor)
                await publisher.some(1)
                await back.until(lambda back=back: numbers(back)[-1:] == [publisher.number])  # type: ignore[misc]
                assert set(back.gaps()) == {"lost"}
                assert [one for one in numbers(back) if one > 3] == list(range(4, publisher.number + 1))
    await expect_all_taken(stream, publisher)
    assert stream.gaps() == ["lost"]


async def test_a_promoted_replica_whose_clock_is_behind(
    start_server: StartServer, start_pair: StartPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids resume above all earlier ones, and only lost events make a gap."""
    monkeypatch.setattr("broker.stores.redis.store.load", lambda: with_offset(load()))
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    async with RedisProxy(primary) as proxy:
        one, other = await start_pair(proxy.url)
        streams = await alone_and_both(other)
        publisher = Publisher(one)
        await publisher.some(3)
        replica.wait_synced()
        with replica.client() as copy:
            await until(lambda: copy.xlen("broker:{b}:log:a") == 3, "the replica has it")
            copy.replicaof("NO", "ONE")
            copy.set(OFFSET, -5)
        await publisher.some(3)
        for stream in streams:
            await expect_all_taken(stream, publisher)
        primary.kill()
        proxy.redirect(replica)
        await publisher.until_taken()
        await publisher.some(3)
        for stream in streams:
            await both_have(stream, publisher)
        assert number(await one.publish("b", "x")) > max(number(event.id) for event in streams[0].published())


async def test_sentinel_promotes_a_replica_without_the_last_writes(
    replicated: Replicated, start_pair: StartPair
) -> None:
    one, other = await start_pair(replicated.url)
    streams = await alone_and_both(other)
    publisher = Publisher(one)
    await publisher.some(3)
    with replicated.replica.client() as copy:
        await until(lambda: copy.xlen("broker:{b}:log:a") == 3, "the replica has it")
    replicated.sentinel.pause()
    with replicated.primary.client() as client:  # the replica is disconnected, and refused from now on
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="replica")
    await publisher.some(3)
    for stream in streams:
        await expect_all_taken(stream, publisher)
    cursor = streams[0].published()[4].id
    replicated.primary.kill()
    replicated.sentinel.resume()
    await publisher.until_taken()
    await publisher.some(3)
    for stream in streams:
        await both_have(stream, publisher)
    await until_ready(one)
    back = await one.subscribe("/topics/a", Last_Event_ID=cursor)
    await has_last(back, publisher)
    assert back.gaps() == ["lost"]


async def has_last(stream: AsyncStream, publisher: Publisher) -> None:
    await stream.until(lambda: numbers(stream)[-1:] == [publisher.number])


async def test_a_key_counts_once_across_a_failover_that_kept_it(
    start_server: StartServer, start_pair: StartPair
) -> None:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    async with RedisProxy(primary) as proxy:
        one, other = await start_pair(proxy.url)
        stream = await other.subscribe("/topics/a")
        kept = await one.request("POST", "/topics/a", b"1", Idempotency_Key="kept")
        with replica.client() as copy:
            await until(lambda: copy.xlen("broker:{b}:log:a") == 1, "the replica has it")
            copy.replicaof("NO", "ONE")
        await one.request("POST", "/topics/a", b"2", Idempotency_Key="lost")
        assert await stream.data(2) == ["1", "2"]
        primary.kill()
        proxy.redirect(replica)
        again = [
            await other.request("POST", "/topics/a", data, Idempotency_Key=key)
            for key, data in (("kept", b"1"), ("lost", b"2"), ("lost", b"2"))
        ]
        assert [answer.status for answer in again] == [201] * 3
        assert again[0].json() == kept.json()
        assert ["idempotency-replayed" in answer.headers for answer in again] == [True, False, True]
        assert await stream.data(3) == ["1", "2", "2"]
        assert stream.gaps() == ["lost"]


async def test_deleted_while_all_instances_were_disconnected(
    start_server: StartServer, start_pair: StartPair
) -> None:
    """The end is written once, then new events."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        one, other = await start_pair(server.url, proxy.url)
        alone, both = await both_with_one(one, other)
        cursor = alone.published()[0].id
        proxy.close()
        await one.request("DELETE", "/topics/a")
        await one.publish("a", "2")
        proxy.open()
        assert b"deleted" in await alone.end()
        assert [event.data for event in alone.published()] == ["1"]
        assert alone.gaps() == []
        await one.publish("b", "3")
        assert await both.data(2) == ["1", "3"]
        assert [event.type for event in both.events].count("broker.end") == 1
        assert both.gaps() == []
        back = await other.subscribe("/topics/a", Last_Event_ID=cursor)
        assert await back.data(1) == ["2"]
        assert back.gaps() == []
