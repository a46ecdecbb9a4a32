"""Servers, connections and instances that are slow, full or missing."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

from tests.stores.brokers import (
    Publisher,
    StartBroker,
    StartPair,
    alone_and_both,
    expect_all_taken,
    numbers,
    ready,
    until_ready,
)
from tests.stores.conftest import StartServer
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.patience import timeouts
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import Server
from tests.support.waiting import until

TIMEOUTS = {"PROBE_TIMEOUT_SECONDS": 0.5, "REPLY_TIMEOUT_SECONDS": 0.5}
STOPPED_SECONDS = 2
"""When the instance goes on, the time-outs have passed for a probe that it made within a second."""


async def test_the_store_is_started_after_the_instance(
    program: str, tmp_path: Path, start_broker: StartBroker
) -> None:
    server = Server(tmp_path / "0", program)
    with timeouts(START_SECONDS=0.2):
        broker = await start_broker(server.url)
    publisher = Publisher(broker)
    try:
        with timeouts(CALL_SECONDS=0.5, WATCH_SECONDS=0.2):  # what they give up can't succeed
            browser = await broker.subscribe("/topics/a", Accept="text/event-stream")
            assert browser.status == 200
            body = await browser.end()
            assert body.startswith(b"retry: ") and int(body.split()[1]) >= 10_000
            assert b"data" not in body
            for target in ("/topics/a", "/topics?topic=a&topic=b"):
                other = await broker.request("GET", target, Accept="*/*")
                assert (other.status, other.json()["code"]) == (503, "unavailable")
                assert "retry-after" in other.headers
            assert not await publisher.once()
        assert not await ready(broker)
        assert (await broker.request("GET", "/healthz")).status == 200
        server.start()
        await until_ready(broker)
        stream = await broker.subscribe("/topics/a")
        await publisher.some(2)
        await expect_all_taken(stream, publisher)
    finally:
        server.__exit__(None, None, None)


async def test_memory_full_and_freed(start_server: StartServer, start_pair: StartPair) -> None:
    """Old and new subscribers go on without a gap; publishes succeed again when there is room."""
    server = start_server("maxmemory 6mb", "maxmemory-policy noeviction")
    one, other = await start_pair(server.url)
    stream, both = await alone_and_both(other)
    publisher = Publisher(one)
    await publisher.some(5)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        for _ in range(3):
            assert not await publisher.once()
        replay = await other.subscribe("/topics/a?since=earliest")
        await replay.until(lambda: len(numbers(replay)) == 5)
        assert (await other.subscribe("/topics/new")).status == 200
        client.config_set("maxmemory", 0)
    await publisher.some(5)
    for reader in (stream, both, replay):
        await expect_all_taken(reader, publisher)
        assert reader.gaps() == []
    await until_ready(one, other)


async def test_a_topics_keys_have_another_type(start_server: StartServer, start_broker: StartBroker) -> None:
    """Another application uses the key: that topic fails, all others work, and it works again when the key is gone."""
    server = start_server()
    broker = await start_broker(server.url)
    witness = await broker.subscribe("/topics?topic=b&topic=c")
    with server.client() as client:
        client.set("broker:{b}:rec:a", "x")
        assert (await broker.request("POST", "/topics/a", b"x")).status == 503
        with timeouts(WATCH_SECONDS=0.2):
            refused = await broker.request("GET", "/topics/a", Accept="*/*")
        assert refused.status == 503
        for number in range(5):
            await broker.publish("b", str(number))
        await witness.until(lambda: len(numbers(witness)) == 5)
        client.delete("broker:{b}:rec:a")
    stream = await broker.subscribe("/topics/a")
    await broker.publish("a", "again")
    assert await stream.data(1) == ["again"]


async def test_a_foreign_payload_on_a_channel(start_server: StartServer, start_broker: StartBroker) -> None:
    server = start_server()
    broker = await start_broker(server.url)
    streams = await alone_and_both(broker)
    publisher = Publisher(broker)
    with server.client() as client:
        for message in (
            "",
            "hello",
            "E",
            "E 1 2 3",
            "E x\n",
            "P",
            "D 1",
            b"\xff\n\xff",
            "E 1 0-0 5 1 9 9 0\n",
        ):
            client.publish("broker:0:a", message)
            await publisher.some(1)
    for stream in streams:
        await expect_all_taken(stream, publisher)
        assert stream.gaps() == []
    await until_ready(broker)


async def test_abandoned_reads_do_no_harm(start_server: StartServer, start_broker: StartBroker) -> None:
    """Subscribers leave while their topics are read; others ask for the same topics."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        broker = await start_broker(proxy.url, retention_bytes=16 << 20)
        lines = b"".join(b'{"data": "%d %s"}\n' % (number, b"x" * 20_000) for number in range(200))
        filled = await start_broker(server.url, retention_bytes=16 << 20)
        answer = await filled.request("POST", "/topics/a", lines, Content_Type="application/x-ndjson")
        assert answer.status == 200
        for _ in range(20):
            _, writer = await broker.send(b"GET /topics/a?since=earliest HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await asyncio.sleep(0.002)
            writer.transport.abort()
        proxy.cut()
        stream = await broker.subscribe("/topics/a?since=earliest")
        await stream.until(lambda: len(stream.published()) == 200)
        assert [event.data.split()[0] for event in stream.published()] == [str(n) for n in range(200)]
        assert stream.gaps() == []
        await stream.close()
        await until(lambda: not broker.subscribers_of("a"), "all have left")
        store = broker.node._store
        assert store.logs._watchers == {}  # type: ignore[attr-defined]


async def test_retries_never_publish_twice_wherever_the_connection_is_cut(
    start_server: StartServer, start_pair: StartPair, chance: random.Random
) -> None:
    """The connection ends in the middle of a greeting, a call, a reply or a payload."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        one, other = await start_pair(proxy.url)
        streams = await alone_and_both(other)
        publisher = Publisher(one)
        for _ in range(40):
            proxy.cut_after(chance.randrange(1, 6000))
            await asyncio.gather(*(publisher.once() for _ in range(chance.randrange(1, 8))))
        await publisher.until_taken()
        for stream in streams:
            await expect_all_taken(stream, publisher)
            assert stream.gaps() == []
            assert set(publisher.taken) <= set(numbers(stream))
        await until_ready(one, other)


def test_an_instance_is_stopped_for_a_while(start_server: StartServer) -> None:
    """It missed payloads without being disconnected: afterwards its subscribers get all events in order, without a gap."""
    server = start_server()
    with (
        BrokerProcess(redis_url=server.url, heartbeat_seconds=0.2) as one,
        BrokerProcess(redis_url=server.url, heartbeat_seconds=0.2, timeouts=TIMEOUTS) as other,
        Stream(other.port, "/topics/a").opened() as alone,
        Stream(other.port, "/topics?topic=a&topic=b").opened() as both,
    ):
        for number in range(5):
            one.publish("a", str(number))
        other.send_signal(signal.SIGSTOP)
        for number in range(5, 10):
            one.publish("a", str(number))
        with server.client() as client:  # meanwhile the server closes its connections
            client.client_kill_filter(_type="pubsub")
        for number in range(10, 15):
            one.publish("a", str(number))
        time.sleep(STOPPED_SECONDS)
        other.send_signal(signal.SIGCONT)
        for number in range(15, 20):
            one.publish("a", str(number))
        for stream in (alone, both):
            while numbers(stream)[-1:] != [19]:
                assert stream.read()
            assert numbers(stream) == list(range(20))
            assert not [event for event in stream.events if event.type == "broker.gap"]
