"""The busiest topics, and the subscribers of one: over all instances, in bounded answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest

from broker.node import questions, topic_details, topic_ranking
from tests.support.local_broker import Serve, Server
from tests.support.patience import own_timeouts
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS
from tests.web.streamed_body import StreamedBody
from tests.web.test_two_instances import Pair, pair  # noqa: F401 - a fixture


async def ranking(server: Server, **query: object) -> dict[str, Any]:
    answer = await server.request("GET", f"/admin/topics?{urlencode(query)}")
    assert answer.status == 200, answer
    return dict(answer.json())


async def details(server: Server, topic: str) -> dict[str, Any]:
    answer = await server.request("GET", f"/admin/topics/{topic}")
    assert answer.status == 200, answer
    return dict(answer.json())


async def until(
    fetch: Callable[[], Awaitable[dict[str, Any]]], holds: Callable[[Any], bool]
) -> dict[str, Any]:
    """Ask again until the answer is as it should be."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds(answer := await fetch()):
            await asyncio.sleep(0.1)
        return answer


def names(answer: dict[str, Any]) -> list[str]:
    return [topic["topic"] for topic in answer["topics"]]


async def publish_many(server: Server, topic: str, count: int, data: str = "x") -> None:
    lines = "".join(json.dumps({"data": data}) + "\n" for _ in range(count)).encode()
    answer = await server.request("POST", f"/topics/{topic}", lines, content_type="application/x-ndjson")
    assert answer.status == 200


async def test_topics_by_subscribers(server: Server) -> None:
    for topic, count in (("a", 1), ("b", 3), ("c", 2)):
        for _ in range(count):
            await server.subscribe(f"/topics/{topic}")
    await server.publish("d", "1")
    answer = await ranking(server)
    assert names(answer) == ["b", "c", "a", "d"]
    assert [topic["subscribers"] for topic in answer["topics"]] == [3, 2, 1, 0]
    assert (answer["matching"], answer["total"]) == (4, 4)


async def test_topics_by_events_and_by_bytes(server: Server) -> None:
    async def busy(sort: str) -> dict[str, Any]:
        await publish_many(server, "many", 300)  # each time: a rate is soon that of a pause
        await publish_many(server, "large", 10, "x" * 10_000)
        return await ranking(server, sort=sort)

    for sort, order in (("events", ["many", "large"]), ("bytes", ["large", "many"])):
        found = await until(
            partial(busy, sort),
            lambda found: all(topic["events_per_second"] for topic in found["topics"]),
        )
        assert names(found) == order
    large = found["topics"][0]
    assert large["bytes_per_second"] / large["events_per_second"] == pytest.approx(10_000, rel=0.01)


async def test_search_finds_quiet_topics_too_and_counts_them(server: Server) -> None:
    for number in range(30):
        await server.publish(f"orders.{number}", "1")
    await server.publish("users", "1")
    await server.subscribe("/topics/orders.17")
    answer = await ranking(server, search="orders.", limit=3)
    assert names(answer) == ["orders.17", "orders.0", "orders.1"]
    assert (answer["matching"], answer["total"]) == (30, 31)
    assert names(await ranking(server, sort="name", limit=2)) == ["orders.0", "orders.1"]
    assert await ranking(server, search="nothing") == {"topics": [], "matching": 0, "total": 31}


async def test_deleted_topics_are_neither_listed_nor_counted(server: Server) -> None:
    for number in range(3):
        await server.publish(f"orders.{number}", "1")
    assert (await server.request("DELETE", "/topics/orders.1")).status == 204
    answer = await ranking(server, search="orders.")
    assert names(answer) == ["orders.0", "orders.2"]
    assert (answer["matching"], answer["total"]) == (2, 2)
    listed = (await server.request("GET", "/topics", accept="application/json")).json()
    assert names(listed) == ["orders.0", "orders.2"]


async def test_an_answer_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(topic_ranking.MAX_TOPICS + 50):
        await server.publish(f"t{number}", "1")
    answer = await ranking(server, limit=1000)
    assert len(answer["topics"]) == topic_ranking.MAX_TOPICS
    assert answer["total"] == topic_ranking.MAX_TOPICS + 50


async def test_requests_share_a_ranking(server: Server) -> None:
    await server.publish("a", "1")
    asked: list[object] = []
    answer = server.node.instances.questions.answerers[topic_ranking.QUESTION]

    async def counted(about: Any) -> object:
        asked.append(about)
        return await answer(about)

    server.node.instances.questions.answerers[topic_ranking.QUESTION] = counted
    await asyncio.gather(*(ranking(server) for _ in range(20)))
    assert len(asked) == 1


@pytest.mark.uncompiled
async def test_what_an_instance_answers_is_kept_for_longer_the_more_it_cost(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many other instances ask."""
    monkeypatch.setattr(topic_ranking, "COST_SHARE", 1e-9)
    answer = server.node.instances.questions.answerers[topic_ranking.QUESTION]
    about = {"sort": "subscribers", "search": ""}
    await server.subscribe("/topics/a")
    first = await answer(about)
    await server.subscribe("/topics/b")
    assert await answer(about) == first
    assert await answer({**about, "search": "b"}) != first


@pytest.mark.uncompiled
async def test_a_ranking_that_took_long_is_not_kept_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow store, or a busy loop, makes every ranking take long."""
    monkeypatch.setattr(topic_ranking, "COST_SHARE", 1e-9)
    monkeypatch.setattr(topic_ranking, "MAX_KEPT_SECONDS", 0.2, raising=False)
    await server.publish("a", "1")
    assert names(await ranking(server)) == ["a"]
    await server.publish("b", "1")
    await until(lambda: ranking(server), lambda answer: set(names(answer)) == {"a", "b"})


async def test_too_many_searches_at_once_are_refused(server: Server) -> None:
    held = asyncio.Event()

    async def hold(about: Any) -> object:
        await held.wait()
        return []

    server.node.instances.questions.answerers[topic_ranking.QUESTION] = hold
    requests = [
        asyncio.create_task(server.request("GET", f"/admin/topics?search={n}"))
        for n in range(topic_ranking.MAX_KEPT * 2)
    ]
    await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)  # it is refused, for the others wait
    held.set()
    answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200, 503}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status == 503)


async def test_who_uses_a_topic(serve: Serve) -> None:
    server = await serve(producer_timeout_seconds=30)
    await server.publish("a", "first")
    stream = await server.subscribe("/topics/a?since=earliest")
    await stream.until(lambda: stream.published())
    body = await StreamedBody.open(server, "/topics/a?end=on-disconnect")
    await body.send(b"data: 2\n\n")
    await stream.until(lambda: len(stream.published()) == 2)
    found = await until(lambda: details(server, "a"), lambda found: found["lease_seconds"] is not None)
    assert (found["subscribers"], found["producers"], found["events"]) == (1, 1, 2)
    (shown,) = found["streams"]
    assert shown["address"] == "127.0.0.1"
    assert (shown["subject"], shown["start"], shown["events"], shown["behind"]) == (None, "since", 2, 0.0)
    assert found["bodies"] == [{"subject": None, "age": found["bodies"][0]["age"], "leased": True}]
    assert found["retention"] == {"events": 1000, "bytes": 1 << 20, "seconds": 3600.0}
    assert found["lease_seconds"] == 30.0  # the clock stands still
    await body.end()


async def test_a_list_of_subscribers_is_bounded_and_the_total_is_real(server: Server) -> None:
    count = topic_details.MAX_SHOWN + 20
    for _ in range(count):
        await server.subscribe("/topics/a")
    found = await details(server, "a")
    assert found["subscribers"] == count
    assert len(found["streams"]) == topic_details.MAX_SHOWN


async def test_a_topic_that_nobody_knows(server: Server) -> None:
    found = await details(server, "unknown")
    assert (found["subscribers"], found["producers"], found["lease_seconds"]) == (0, 0, None)


async def test_over_two_instances(pair: Pair) -> None:  # noqa: F811
    one, other = pair
    for server, topic, count in ((one, "a", 2), (other, "a", 2), (one, "b", 3)):
        for _ in range(count):
            await server.subscribe(f"/topics/{topic}")
    found = await until(
        lambda: ranking(one), lambda found: [t["subscribers"] for t in found["topics"]] == [4, 3]
    )
    assert names(found) == ["a", "b"]

    async def publish_and_rank() -> dict[str, Any]:
        await publish_many(one, "a", 20)  # each time: a rate is soon that of a pause
        await publish_many(other, "b", 50)
        return await ranking(other, sort="events")

    found = await until(
        publish_and_rank, lambda found: all(topic["events_per_second"] for topic in found["topics"])
    )
    assert names(found) == ["b", "a"]
    used = await details(other, "a")
    assert used["subscribers"] == len(used["streams"]) == 4
    await one.publish("kept", "1", "?retain=2h")
    assert (await details(other, "kept"))["retention"]["seconds"] == 7200


async def test_an_instance_that_does_not_answer_is_left_out(pair: Pair) -> None:  # noqa: F811
    one, other = pair
    await one.subscribe("/topics/a")
    other.node.instances.questions.answerers.clear()
    with own_timeouts():
        assert (await details(one, "a"))["subscribers"] == 1


async def test_open_questions_are_bounded(server: Server) -> None:
    asking = server.node.instances.questions
    waiting = [asyncio.create_task(asking.ask("unheard of")) for _ in range(questions.MAX_OPEN)]
    await asyncio.sleep(0)
    refused = await server.request("GET", "/admin/topics/a")
    assert (refused.status, refused.json()["code"]) == (503, "overloaded")
    for asker in waiting:
        asker.cancel()
    await asyncio.wait(waiting)
    assert (await server.request("GET", "/admin/topics/a")).status == 200
    with own_timeouts():
        assert await asking.ask("unheard of") == []


@pytest.mark.parametrize("target", ["/admin/topics", "/admin/topics/a"])
async def test_they_need_the_admin_right(serve: Serve, target: str) -> None:
    server = await serve(jwt_secrets=[HMAC.material])
    for admin, status in ((False, 403), (True, 200)):
        token = HMAC.token(["**"], ["**"], admin=admin)
        assert (await server.request("GET", target, authorization=f"Bearer {token}")).status == status
    assert (await server.request("GET", target)).status == 401


@pytest.mark.parametrize("query", ["sort=size", "limit=0", f"search={'x' * 201}"])
async def test_bad_parameters(server: Server, query: str) -> None:
    answer = await server.request("GET", f"/admin/topics?{query}")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
