"""The broker's own topic `_stats`: its rights and content; without a subscriber nothing is published."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.node import stats
from broker.settings import Settings
from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC
from tests.support.waiting import until
from tests.web.test_two_instances import Pair, pair  # noqa: F401 - a fixture

TARGET = "/topics/_stats?since=45s"


def told(stream: AsyncStream, event_type: str) -> list[dict[str, Any]]:
    """The figures of a type that have arrived."""
    return [json.loads(event.data) for event in stream.events if event.type == event_type]


async def latest(stream: AsyncStream, count: int = 1) -> dict[str, Any]:
    """The newest figures, once there are `count` more."""
    wanted = len(told(stream, "now")) + count
    await stream.until(lambda: len(told(stream, "now")) >= wanted)
    return told(stream, "now")[-1]


async def test_a_reader_gets_the_figures_of_now_and_of_the_past(server: Server) -> None:
    reader = await server.subscribe(TARGET)
    follower = await server.subscribe("/topics/news")
    before = await latest(reader)
    for text in ("1", "2", "3"):
        await server.publish("news", text)
    await follower.until(lambda: len(follower.published()) == 3)
    now = await latest(reader, 2)
    assert now["streams"] == 2
    assert now["published"] - before["published"] == 3
    assert now["delivered"] - before["delivered"] >= 3
    assert now["store"] == {"name": "memory", "problems": [], "lag_ms": 0.0}
    assert not now["draining"]
    assert now["uptime"] > before["uptime"]
    (past,) = told(reader, "past")
    assert past["instance"] == now["instance"] == before["instance"]
    assert past["age"] == sorted(past["age"], reverse=True)
    columns = ("streams", "published", "delivered", "resumed", "p50_ms", "p99_ms", "lag_ms")
    assert {len(past[name]) for name in columns} == {len(past["age"])}


async def test_reasons_are_counted_by_name(server: Server) -> None:
    reader = await server.subscribe(TARGET)
    await server.publish("news", "1")
    lost = await server.subscribe("/topics/news", last_event_id="no-id!")
    await lost.until(lambda: lost.gaps())
    await server.request("POST", "/topics/news?end=true")
    await lost.end()
    now = await latest(reader, 2)
    assert now["gaps"] == {"unknown-id": 1}
    assert now["closes"] == {"ended": 1}
    assert now["resumed"] == 1


async def test_a_second_reader_gets_the_past_that_the_first_one_got(server: Server) -> None:
    first = await server.subscribe(TARGET)
    await latest(first)
    second = await server.subscribe(TARGET)
    await latest(second)
    assert len(told(second, "past")) == 1


async def test_nothing_is_published_while_nobody_reads(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "STEP_SECONDS", 1)
    follower = await server.subscribe("/topics/news")
    node = server.node
    samples = len(node._stats._past)
    await until(lambda: len(node._stats._past) > samples, "the figures are kept")
    (state,) = await node._store.topics.describe(["_stats"])
    assert (state.events, state.last_id) == (0, None)
    await follower.close()


async def test_the_past_is_bounded(server: Server) -> None:
    node = server.node
    for _ in range(3 * stats.STEPS):
        node._stats._past.append(node._stats._figures.sample())
    lines = json.dumps(node._stats._summary(0.0))
    assert len(json.loads(lines)["age"]) == stats.STEPS
    assert len(lines) < 32 << 10


async def test_a_reader_sees_all_instances(pair: Pair) -> None:  # noqa: F811
    one, other = pair
    reader = await one.subscribe(TARGET)
    await reader.until(lambda: len({now["instance"] for now in told(reader, "now")}) == 2)
    await other.publish("news", "1")
    await reader.until(lambda: any(now["published"] for now in told(reader, "now")))
    assert {past["instance"] for past in told(reader, "past")} == {
        now["instance"] for now in told(reader, "now")
    }
    draining = other.node.streams
    draining.is_draining = True
    await reader.until(lambda: any(now["draining"] for now in told(reader, "now")))


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        (None, 401),
        ({"subscribe": ["**"]}, 403),
        ({"subscribe": ["_stats"]}, 200),
        ({"admin": True}, 200),
    ],
)
async def test_who_may_read_them(serve: Serve, claims: dict[str, Any] | None, status: int) -> None:
    server = await serve(jwt_secrets=[HMAC.material])
    headers = {}
    if claims is not None:
        token = HMAC.token((), claims.get("subscribe", ()), admin=claims.get("admin", False))
        headers = {"authorization": f"Bearer {token}"}
    answer = await server.request("HEAD", TARGET, **headers)
    assert answer.status == status


async def test_the_admin_right_opens_no_topic_of_others(serve: Serve) -> None:
    server = await serve(jwt_secrets=[HMAC.material])
    headers = {"authorization": f"Bearer {HMAC.token((), (), admin=True)}"}
    for target in ("/topics/news", "/topics?topic=_stats&topic=news"):
        assert (await server.request("HEAD", target, **headers)).status == 403


async def test_the_list_of_topics_leaves_out_the_brokers_own(server: Server) -> None:
    reader = await server.subscribe(TARGET)
    await latest(reader)
    await server.publish("news", "1")
    answer = await server.request("GET", "/topics", accept="application/json")
    assert [topic["topic"] for topic in answer.json()["topics"]] == ["news"]


def test_its_retention_covers_the_start_of_a_reader() -> None:
    assert Settings().retention().of("_stats").seconds > 45 > stats.PAST_SECONDS
