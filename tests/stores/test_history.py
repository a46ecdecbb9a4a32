"""History and long polling on instances that share a store (contract §4)."""

from __future__ import annotations

import asyncio

import pytest

from tests.stores.brokers import Older, Publisher, StartBroker, numbers, until_ready
from tests.stores.conftest import StartServer
from tests.support.local_broker import Server
from tests.support.patience import timeouts
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import Server as Redis
from tests.support.waiting import until
from tests.web.history import data, follow, get, poll, polls, publish, reasons
from tests.web.streamed_body import close_topic

Pair = tuple[Server, Server]


@pytest.fixture
async def pair(empty_server: Redis, start_broker: StartBroker) -> Pair:
    """Two brokers on one empty server."""
    return await start_broker(empty_server.url), await start_broker(empty_server.url)


async def page_through(server: Server, target: str) -> list[str]:
    """All events, page by page."""
    found = await get(server, target)
    seen = data(found)
    while found["more"]:
        found = await get(server, f"{target}&lastEventId={found['cursor']}")
        assert found["gap"] is None
        seen += data(found)
    return seen


async def page_back(server: Server, target: str) -> list[str]:
    """The same from the newest back."""
    found = await get(server, f"{target}&before=99999999999999-0")
    seen = data(found)
    while found["more"]:
        found = await get(server, f"{target}&before={found['events'][0]['id']}")
        seen = data(found) + seen
    return seen


async def test_an_answer_has_all_that_was_published_before_the_request(pair: Pair) -> None:
    """On the instance that took it and on the other, and whether or not the topic has been read there."""
    for number in range(1, 30):
        sent = await pair[number % 2].publish("a", str(number))
        for server in pair:
            found = await get(server, "/topics/a/events?limit=1000")
            assert data(found) == [str(one) for one in range(1, number + 1)]
            assert found["cursor"] == sent


async def test_several_topics_page_by_page(pair: Pair) -> None:
    one, other = pair
    expected = list(map(str, range(40)))
    for text in expected:
        await one.publish("abc"[int(text) % 3], text)
    target = "/events?topic=a&topic=b&topic=c&limit=7"
    for server in pair:
        assert await page_through(server, target) == expected
        assert await page_back(server, target) == expected
    fresh = await get(other, "/topics/c/events?last=2")
    assert data(fresh) == ["35", "38"]


async def test_a_topic_of_more_events_than_a_page_of_the_store(pair: Pair) -> None:
    one, other = pair
    lines = b"".join(b'{"data": "%d"}\n' % number for number in range(900))
    assert (await one.request("POST", "/topics/a", lines, content_type="application/x-ndjson")).status == 200
    expected = list(map(str, range(900)))
    assert await page_through(other, "/topics/a/events?limit=200") == expected
    assert await page_back(other, "/topics/a/events?limit=200") == expected


async def test_the_cursor_of_an_empty_answer_is_the_last_id_of_the_store(pair: Pair) -> None:
    sent = await pair[0].publish("elsewhere", "x")
    for target in ("/topics/a/events", "/events?topic=a&topic=b"):
        assert (await get(pair[1], target))["cursor"] == sent


async def test_a_poll_is_woken_by_the_other_instance(pair: Pair) -> None:
    one, other = pair
    waiting = [
        await poll(other, target)
        for target in ("/topics/a/events?wait=50s", "/events?topic=a&topic=b&wait=50s")
    ]
    (sent,) = await publish(one, "a", "1")
    for each in waiting:
        found = await each.json()
        assert (data(found), found["cursor"]) == (["1"], sent)
    await until(lambda: not other.subscribers_of("a"), "both have left")


async def test_a_poll_learns_of_an_end_on_the_other_instance(pair: Pair) -> None:
    one, other = pair
    await publish(one, "b", "0")
    waiting = [
        await poll(other, target)
        for target in ("/topics/a/events?wait=50s", "/topics/b/events?wait=50s&since=latest")
    ]
    await close_topic(one, "a", "last")
    found = await waiting[0].json()
    assert (data(found), found["closed"], reasons(found)) == (["last"], True, {"a": "closed"})
    await one.request("DELETE", "/topics/b")
    found = await waiting[1].json()
    assert (data(found), found["closed"], reasons(found)) == ([], False, {"b": "deleted"})


async def test_pollers_that_wander_between_instances_miss_nothing(pair: Pair) -> None:
    count = 120
    start = (await get(pair[0], "/topics/a/events"))["cursor"]

    async def wander(first: int, target: str, wanted: int) -> list[str]:
        seen: list[str] = []
        cursor, turn = start, first
        while len(seen) < wanted:
            turn += 1
            found = await get(pair[turn % 2], f"{target}&lastEventId={cursor}")
            assert found["gap"] is None
            seen += data(found)
            cursor = found["cursor"]
        return seen

    async def publish_all() -> None:
        for number in range(count):
            await pair[number % 3 % 2].publish("ab"[number % 2], str(number))

    both = [wander(turn, "/events?topic=a&topic=b&wait=50s&limit=4", count) for turn in (0, 1)]
    one = [wander(turn, "/topics/a/events?wait=50s", count // 2) for turn in (0, 1)]
    still = [follow(pair[0], "/events?topic=a&topic=b&wait=50s", count, start)]
    *seen, _ = await asyncio.gather(*both, *one, *still, publish_all())
    expected = list(map(str, range(count)))
    assert seen == [expected] * 2 + [expected[::2]] * 2 + [expected]


async def test_a_store_that_does_not_answer_is_told(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    async with RedisProxy(server) as proxy:
        broker = await start_broker(proxy.url)
        waiting = await poll(broker, "/topics/a/events?wait=2s")
        proxy.close()
        for target in ("/topics/b/events", "/topics/b/events?wait=50s", "/events?topic=a&topic=b"):
            with timeouts(WATCH_SECONDS=0.2):
                answer = await broker.request("GET", target)
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
        assert (await waiting.json())["events"] == [], "a poll that waits goes on waiting"
        assert not broker.node.limits._connections
        proxy.open()
        await until_ready(broker)
        await publish(broker, "b", "1")
        assert data(await get(broker, "/topics/b/events")) == ["1"]


async def test_a_loss_in_the_store_is_told_where_it_lies(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    """At once to a poll that waits, and to later requests before the events behind it."""
    server = start_server()
    async with RedisProxy(server) as proxy:
        broker = await start_broker(proxy.url)
        stream = await broker.subscribe("/topics/a?since=earliest")
        publisher = Publisher(broker)
        await publisher.some(3)
        older = Older(server)
        await publisher.some(2)
        await stream.until(lambda: len(numbers(stream)) == 5)
        seen = stream.published()[-1].id
        waiting = await poll(broker, f"/topics/a/events?wait=50s&lastEventId={seen}")
        proxy.close()
        older.load()
        proxy.open()
        await until_ready(broker)
        found = await waiting.json()
        assert found["gap"]["reason"] == "lost"
        await until(lambda: polls(broker) == 1, "only the stream is left")
        await publisher.until_taken()
        await stream.until(lambda: numbers(stream)[-1] == publisher.number)
        found = await get(broker, f"/topics/a/events?lastEventId={seen}")
        assert found["gap"] == {"topic": "a", "after": seen, "reason": "lost"}
        assert data(found) == [str(publisher.number)]
