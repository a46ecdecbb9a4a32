"""Events that an instance missed, and the store no longer has, make a gap in each of its streams (I2), of one topic or of several."""

from __future__ import annotations

import json

import pytest

from tests.stores.brokers import (
    BOTH,
    Older,
    StartBroker,
    StartPair,
    alone_and_both,
    until_not_ready,
    until_ready,
)
from tests.stores.conftest import StartServer
from tests.stores.scripts_caller import rec_key
from tests.support.event_stream import EventStream
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import Server
from tests.support.waiting import until


def told(stream: EventStream) -> list[str]:
    """In order: the data of each event, and "gap TOPIC REASON" for each gap."""
    lines = []
    for event in stream.events:
        if event.type == "broker.gap":
            gap = json.loads(event.data)
            lines.append(f"gap {gap['topic']} {gap['reason']}")
        elif event.type is None:
            lines.append(event.data)
    return lines


@pytest.mark.parametrize("end", ["", "closed"])
async def test_each_topic_of_a_stream_has_its_own_gap(
    start_server: StartServer, start_broker: StartBroker, end: str
) -> None:
    """I2: of two topics that were both trimmed while the instance was disconnected, the second one's gap lies before events
    of the first."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        settings = {"retention_events": 2}
        one = await start_broker(server.url, **settings)
        other = await start_broker(proxy.url, **settings)
        both = await other.subscribe(BOTH)
        alone = await other.subscribe("/topics/b")
        for topic in "ab":
            await one.publish(topic, f"{topic}0")
        await both.until(lambda: len(both.published()) == 2)
        proxy.close()
        await until_not_ready(other)
        for number in range(1, 7):
            for topic in "ab":
                await one.publish(topic, f"{topic}{number}")
        if end:
            await one.request("POST", "/topics/b?end=true")
        proxy.open()
        await until_ready(other)
        await one.publish("a", "a7")
        await both.until(lambda: "a7" in told(both))
        await alone.until(lambda: "b6" in told(alone))
        assert told(alone) == ["b0", "gap b trimmed", "b5", "b6"]
        assert [line for line in told(both) if line.startswith("gap")] == ["gap a trimmed", "gap b trimmed"]
        events = [line for line in told(both) if not line.startswith("gap")]
        assert events == ["a0", "b0", "a5", "b5", "a6", "b6", "a7"]
        for topic in "ab":
            assert told(both).index(f"gap {topic} trimmed") < told(both).index(f"{topic}5")


@pytest.mark.parametrize("target", ["/topics/a", BOTH])
async def test_a_copy_of_lost_events_does_not_join_older_ones_of_the_store(
    start_server: StartServer, start_pair: StartPair, target: str
) -> None:
    """I2: the store went back to e3. An instance has e6 and e7 from before, and reads e2 and e3 in front of them: e4 and
    e5 are missing."""
    server = start_server()
    one, other = await start_pair(server.url)
    cursor = await one.publish("a", "e1")
    for number in (2, 3):
        await one.publish("a", f"e{number}")
    older = Older(server)
    for number in (4, 5):
        await one.publish("a", f"e{number}")
    # The second instance learns of e5 by this, so its log of the topic begins after it.
    await other.subscribe("/topics/c")
    live = await other.subscribe("/topics/a")
    for number in (6, 7):
        await one.publish("a", f"e{number}")
    await live.until(lambda: told(live) == ["e6", "e7"])
    older.load()
    await until_ready(one, other)
    await one.publish("a", "e8")
    await live.until(lambda: told(live) == ["e6", "e7", "gap a lost", "e8"])
    back = await other.subscribe(target, Last_Event_ID=cursor)
    await back.until(lambda: "e8" in told(back))
    lines = [line for line in told(back) if "gap b" not in line]
    assert lines == ["e2", "e3", "gap a lost", "e6", "e7", "gap a lost", "e8"]


async def is_forgotten(server: Server, topic: str) -> None:
    """Wait until the topic's record has expired: 2 s after its memory."""
    with server.client() as client:
        await until(lambda: not client.exists(rec_key(topic)), "the record has expired")


@pytest.mark.parametrize("target", ["/topics/a", BOTH])
async def test_an_expired_record_hides_no_event_of_an_idle_store(
    start_server: StartServer, start_broker: StartBroker, target: str
) -> None:
    """I2: the record expires by the server's time, however long ago the store's last event was."""
    server = start_server()
    one = await start_broker(server.url, topic_memory_seconds=0.2)
    cursor = await one.publish("a", "one")
    last = await one.publish("a", "two")
    await is_forgotten(server, "a")
    back, exact = [await one.subscribe(target, Last_Event_ID=text) for text in (cursor, last)]
    await one.publish("a", "three")
    for stream in (back, exact):
        await stream.until(lambda stream=stream: "three" in told(stream))  # type: ignore[misc]
    assert [line for line in told(back) if "gap b" not in line] == ["gap a trimmed", "three"]
    assert told(exact) == ["three"]


async def test_a_record_that_expires_while_the_instance_is_disconnected_hides_no_event(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    async with RedisProxy(server) as proxy:
        one = await start_broker(server.url, topic_memory_seconds=0.2)
        other = await start_broker(proxy.url, topic_memory_seconds=0.2)
        streams = await alone_and_both(other)
        await one.publish("a", "one")
        for stream in streams:
            await stream.until(lambda stream=stream: "one" in told(stream))  # type: ignore[misc]
        proxy.close()
        await until_not_ready(other)
        await one.publish("a", "two")
        await is_forgotten(server, "a")
        proxy.open()
        await until_ready(other)
        await one.publish("a", "three")
        for stream in streams:
            await stream.until(lambda stream=stream: "three" in told(stream))  # type: ignore[misc]
            assert [line for line in told(stream) if "gap b" not in line] == [
                "one",
                "gap a trimmed",
                "three",
            ]


@pytest.mark.parametrize("is_expired", [True, False], ids=["before", "after"])
async def test_a_longer_topic_memory_hides_no_event(
    start_server: StartServer, start_broker: StartBroker, is_expired: bool
) -> None:
    """I2: records that were kept by a shorter memory expire before or after an instance brings a longer one."""
    server = start_server()
    short = await start_broker(server.url, topic_memory_seconds=0.2)
    cursor = await short.publish("a", "one")
    await short.publish("a", "two")
    if is_expired:
        await is_forgotten(server, "a")
    long = await start_broker(server.url, topic_memory_seconds=3600)
    await is_forgotten(server, "a")
    streams = [await broker.subscribe("/topics/a", Last_Event_ID=cursor) for broker in (long, short)]
    await long.publish("a", "three")
    for back in streams:
        await back.until(lambda back=back: "three" in told(back))  # type: ignore[misc]
        assert told(back) == ["gap a trimmed", "three"]
    await long.publish("b", "x")
    with server.client() as client:
        assert client.pttl(rec_key("b")) > 3_000_000
    await short.publish("c", "x")
    with server.client() as client:
        assert client.pttl(rec_key("c")) > 3_000_000, "the longer one holds for all"
