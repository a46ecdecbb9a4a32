"""Faults of the server and of the connections to it, with two brokers on one real server (design §2, §4).

`brokers` lists the claims that hold for each fault.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from broker.events import parse_id
from tests.stores.brokers import (
    Publisher,
    StartBroker,
    StartPair,
    alone_and_both,
    expect_all_taken,
    numbers,
    until_not_ready,
    until_ready,
)
from tests.stores.conftest import Replicated, StartServer
from tests.support.patience import timeouts
from tests.support.redis_proxy import RedisProxy
from tests.support.waiting import until


async def test_an_event_is_delivered_on_the_other_instance(
    start_server: StartServer, start_pair: StartPair
) -> None:
    redis = start_server()
    one, other = await start_pair(redis.url)
    stream = await other.subscribe("/topics/a")
    publisher = Publisher(one)
    await publisher.some(20)
    await expect_all_taken(stream, publisher)
    assert stream.gaps() == []
    for broker in (one, other):
        replay = await broker.subscribe("/topics/a?since=earliest")
        assert await replay.data(20) == [str(number) for number in range(1, 21)]
        assert replay.gaps() == []


async def test_killed_with_its_data(start_server: StartServer, start_pair: StartPair) -> None:
    redis = start_server("appendonly yes", "appendfsync always")
    one, other = await start_pair(redis.url)
    streams = await alone_and_both(other)
    publisher = Publisher(one)
    await publisher.some(5)
    redis.kill()
    with timeouts(CALL_SECONDS=0.5):
        assert not await publisher.once()
    assert (await until_not_ready(one))["store"] != "ok"
    redis.start()
    await publisher.until_taken()
    await until_ready(one, other)
    await publisher.some(5)
    for stream in streams:
        await expect_all_taken(stream, publisher)
        assert stream.gaps() == []
    back = await other.subscribe("/topics/a", Last_Event_ID=streams[0].published()[0].id)
    await back.until(lambda: numbers(back)[-1:] == [publisher.number])
    assert numbers(back) == numbers(streams[0])[1:]
    assert back.gaps() == []


async def test_killed_without_its_data(start_server: StartServer, start_pair: StartPair) -> None:
    redis = start_server()
    one, other = await start_pair(redis.url)
    streams = await alone_and_both(other)
    publisher = Publisher(one)
    await publisher.some(5)
    for stream in streams:
        await expect_all_taken(stream, publisher)
    cursor = streams[0].published()[-1].id
    redis.restart(keep_data=False)
    await publisher.until_taken()
    await publisher.some(2)
    for stream in streams:
        await expect_all_taken(stream, publisher)
        assert set(stream.gaps()) == {"lost"}
    await until_ready(one)
    back = await one.subscribe("/topics/a", Last_Event_ID=cursor)
    await back.until(lambda: numbers(back)[-1:] == [publisher.number])
    assert back.gaps() == ["lost"]


async def test_flushall(start_server: StartServer, start_pair: StartPair) -> None:
    redis = start_server()
    one, other = await start_pair(redis.url)
    stream = await other.subscribe("/topics/a")
    silent = await other.subscribe("/topics/silent")
    publisher = Publisher(one)
    await publisher.some(3)
    await expect_all_taken(stream, publisher)
    with redis.client() as client:
        client.flushall()
    await stream.until(lambda: stream.gaps())
    await silent.until(lambda: silent.gaps())
    assert stream.gaps() == silent.gaps() == ["lost"]
    await publisher.some(3)
    await expect_all_taken(stream, publisher)
    assert stream.gaps() == ["lost"]


async def test_paused_for_longer_than_all_timeouts(start_server: StartServer, start_pair: StartPair) -> None:
    redis = start_server()
    one, other = await start_pair(redis.url)
    stream = await other.subscribe("/topics/a")
    publisher = Publisher(one)
    await publisher.some(3)
    redis.pause()
    until_when = monotonic() + 3
    try:
        # A quarter of the broker's own.
        with timeouts(CALL_SECONDS=1.1, REPLY_TIMEOUT_SECONDS=0.5, CONNECT_SECONDS=0.5, WATCH_SECONDS=0.2):
            while monotonic() < until_when:
                assert not await publisher.once()
            assert (await until_not_ready(one))["store"] != "ok"
            refused = await other.subscribe("/topics/b")
        assert refused.status == 200
        assert (await refused.end()).startswith(b"retry: ")
    finally:
        redis.resume()
    await publisher.until_taken()
    await until_ready(one, other)
    await publisher.some(3)
    await expect_all_taken(stream, publisher)
    assert stream.gaps() == []


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_connections_cut(start_server: StartServer, start_pair: StartPair, kind: str) -> None:
    redis = start_server()
    one, other = await start_pair(redis.url)
    streams = await alone_and_both(other)
    publisher, second = Publisher(one), Publisher(one, "b")
    with redis.client() as client:
        for _ in range(5):
            client.execute_command("CLIENT", "KILL", "TYPE", kind)
            await publisher.some(10)
            await second.some(1)
    await expect_all_taken(streams[0], publisher)
    assert numbers(streams[0]) == list(publisher.taken)
    await streams[1].until(lambda: len(streams[1].published()) == len(publisher.taken) + len(second.taken))
    ids = [parse_id(event.id) for event in streams[1].published()]
    assert ids == sorted([*publisher.taken.values(), *second.taken.values()])
    assert streams[0].gaps() == streams[1].gaps() == []


async def test_script_cache_flushed(start_server: StartServer, start_broker: StartBroker) -> None:
    redis = start_server()
    one = await start_broker(redis.url)
    stream = await one.subscribe("/topics/a")
    publisher = Publisher(one)
    with redis.client() as client:
        for _ in range(3):
            client.script_flush()
            await asyncio.gather(*(publisher.once() for _ in range(10)))
    await stream.until(lambda: len(numbers(stream)) == 30)
    assert sorted(numbers(stream)) == list(range(1, 31))
    assert publisher.refused == []


async def test_a_streamed_body_keeps_its_order_when_the_script_cache_is_flushed(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    redis = start_server()
    one = await start_broker(redis.url, retention_events=10_000)
    stream = await one.subscribe("/topics/a")
    lines = b"".join(b'{"data": %d}\n' % number for number in range(5000))
    publishing = asyncio.ensure_future(
        one.request("POST", "/topics/a", lines, Content_Type="application/x-ndjson")
    )
    with redis.client() as client:
        while not publishing.done():
            client.script_flush()
            await asyncio.sleep(0.001)
    assert (await publishing).json()["published"] == 5000
    await stream.until(lambda: len(stream.published()) == 5000)
    assert numbers(stream) == list(range(5000))


async def test_output_buffer_limit_hit_by_a_burst(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    redis = start_server("client-output-buffer-limit pubsub 256kb 0 0")
    one = await start_broker(redis.url, retention_bytes=64 << 20)
    stream = await one.subscribe("/topics/a")
    lines = b"".join(b'{"data": "%d %s"}\n' % (number, b"x" * 60_000) for number in range(200))
    answer = await one.request("POST", "/topics/a", lines, Content_Type="application/x-ndjson")
    assert answer.status == 200
    await stream.until(lambda: len(stream.published()) == 200)
    assert [event.data.split()[0] for event in stream.published()] == [str(number) for number in range(200)]
    assert stream.gaps() == []


async def test_memory_full(start_server: StartServer, start_broker: StartBroker) -> None:
    redis = start_server("maxmemory 4mb", "maxmemory-policy noeviction")
    one = await start_broker(redis.url, retention_bytes=64 << 20, retention_events=100_000)
    stream = await one.subscribe("/topics/a")
    taken = 0
    while (answer := await one.request("POST", "/topics/a", b"x" * 50_000)).status == 201:
        taken += 1
        assert taken < 1000
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    assert "memory is full" in str(answer.json()["detail"])
    await stream.until(lambda: len(stream.published()) == taken)
    assert (await one.request("DELETE", "/topics/a")).status == 204
    await stream.until(lambda: any(event.type == "broker.end" for event in stream.events))
    await Publisher(one).until_taken()  # the server frees the memory after its answer


async def test_a_promoted_replica_lacks_the_last_writes(
    start_server: StartServer, start_pair: StartPair
) -> None:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    async with RedisProxy(primary) as proxy:
        one, other = await start_pair(proxy.url)
        stream, both = await alone_and_both(other)
        publisher = Publisher(one)
        await publisher.some(3)
        replica.wait_synced()
        with replica.client() as copy:
            await until(lambda: copy.xlen("broker:{b}:log:a") == 3, "the replica has it")
            copy.replicaof("NO", "ONE")
        await publisher.some(3)
        await expect_all_taken(stream, publisher)
        primary.kill()
        proxy.redirect(replica)
        await publisher.until_taken()
        await publisher.some(3)
        for reader in (stream, both):
            await expect_all_taken(reader, publisher)
            assert set(reader.gaps()) == {"lost"}
        assert stream.gaps() == ["lost"]


async def test_sentinel_promotes_a_replica(replicated: Replicated, start_pair: StartPair) -> None:
    one, other = await start_pair(replicated.url)
    stream = await other.subscribe("/topics/a")
    publisher = Publisher(one)
    await publisher.some(3)
    with replicated.replica.client() as copy:
        await until(lambda: copy.xlen("broker:{b}:log:a") == 3, "the replica has it")
    replicated.primary.kill()
    await publisher.until_taken()
    await publisher.some(3)
    await expect_all_taken(stream, publisher)
    assert stream.gaps() == []
    await until_ready(one, other)


async def test_channels_dead_while_commands_work(start_server: StartServer, start_pair: StartPair) -> None:
    redis = start_server()
    async with RedisProxy(redis) as proxy:
        one, other = await start_pair(redis.url, proxy.url)
        streams = await alone_and_both(other)
        publisher = Publisher(one)
        await publisher.some(3)
        await expect_all_taken(streams[0], publisher)
        with timeouts(PROBE_TIMEOUT_SECONDS=0.5):
            proxy.silence_subscribers()
            await publisher.some(3)
            assert (await other.request("POST", "/topics/other", b"commands work")).status == 201
            for stream in streams:
                await expect_all_taken(stream, publisher)
                assert stream.gaps() == []
        await until_ready(other)


async def test_the_connection_is_cut_again_and_again(
    start_server: StartServer, start_pair: StartPair
) -> None:
    redis = start_server()
    async with RedisProxy(redis) as proxy:
        one, other = await start_pair(proxy.url)
        streams = await alone_and_both(other)
        publisher = Publisher(one)
        for _ in range(10):
            await asyncio.gather(publisher.once(), publisher.once(), publisher.once())
            proxy.cut()
        await publisher.until_taken()
        for stream in streams:
            await expect_all_taken(stream, publisher)
            seen = numbers(stream)
            assert sorted(seen) == list(range(1, publisher.number + 1)), (
                "each event once, although answers were lost"
            )
            assert stream.gaps() == []
