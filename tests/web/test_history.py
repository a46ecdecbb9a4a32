"""History as JSON (contract §4)."""

from __future__ import annotations

import json

import pytest

from broker.events import rfc3339
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tokens import HMAC
from tests.web.history import data, get, poll, publish, reasons
from tests.web.streamed_body import close_topic


async def test_the_events_of_a_topic(server: Server, clock: Clock) -> None:
    ids = [await server.publish("news", "one\ntwo"), await server.publish("news", "3", "?event=a%20type")]
    answer = await server.request("GET", "/topics/news/events")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "private, no-cache"
    time = rfc3339(clock.now)
    assert answer.json() == {
        "events": [
            {"topic": "news", "id": ids[0], "event": None, "time": time, "data": "one\ntwo"},
            {"topic": "news", "id": ids[1], "event": "a type", "time": time, "data": "3"},
        ],
        "cursor": ids[1],
        "more": False,
        "gap": None,
        "closed": False,
    }


async def test_an_event_is_the_envelope_of_a_stream(server: Server) -> None:
    await server.publish("news", 'a "quoted" \u2028 \x01 text\r\nof lines')
    stream = await server.subscribe("/topics/news?since=earliest&envelope=json")
    event = await stream.event(1)
    assert (await get(server, "/topics/news/events"))["events"] == [json.loads(event.data)]


async def test_an_empty_answer_has_the_last_id_of_the_store(server: Server) -> None:
    (last,) = await publish(server, "other", "x")
    for target in (
        "/topics/news/events",
        "/events?topic=news&topic=more",
        "/topics/other/events?since=latest",
    ):
        found = await get(server, target)
        assert found == {"events": [], "cursor": last, "more": False, "gap": None, "closed": False}
    listed = (await server.request("GET", "/topics", accept="application/json")).json()["topics"]
    assert [one["topic"] for one in listed] == ["other"], "reading makes no topic"


async def test_a_stream_continues_at_the_cursor(server: Server) -> None:
    await publish(server, "news", "1", "2", "3")
    found = await get(server, "/topics/news/events?limit=2")
    assert (data(found), found["more"]) == (["1", "2"], True)
    stream = await server.subscribe("/topics/news", last_event_id=found["cursor"])
    await server.publish("news", "4")
    assert await stream.data(2) == ["3", "4"]
    assert stream.events[0].type is None


async def test_starts_are_those_of_streams(server: Server, clock: Clock) -> None:
    old = await publish(server, "news", "1", "2")
    clock.now += 60
    await publish(server, "news", "3")
    for query, expected in (
        ("", "123"),
        ("since=earliest", "123"),
        ("since=latest", ""),
        (f"since={old[0]}", "23"),
        ("since=30s", "3"),
        (f"since={rfc3339(clock.now - 30)}", "3"),
        (f"lastEventId={old[1]}", "3"),
        (f"lastEventId={old[1]}&since=earliest&last=3", "3"),
        ("lastEventId=&last=2", "23"),
        ("last=2", "23"),
        ("last=0", ""),
        ("last=9&limit=2", "12"),
        ("nonsense=1&_=2", "123"),
    ):
        assert "".join(data(await get(server, f"/topics/news/events?{query}"))) == expected, query
    assert data(await get(server, "/topics/news/events", last_event_id=old[1])) == ["3"]


@pytest.mark.parametrize(
    "query",
    ["since=never", "last=x", "last=-1", "limit=0", "limit=1001", "limit=", "wait=51s", "wait=1m", "wait=30", "wait=",
     "before=", "before=x", "before=1-1&wait=1s"],
)  # fmt: skip
async def test_bad_parameters(server: Server, query: str) -> None:
    for target in ("/topics/news/events?", "/events?topic=news&"):
        answer = await server.request("GET", target + query)
        assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter"), target
        assert answer.headers["content-type"] == "application/problem+json"


async def test_bad_topics_and_methods(server: Server) -> None:
    answer = await server.request("GET", "/topics/a..b/events")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-topic")
    answer = await server.request("GET", "/events")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
    many = "&".join(f"topic=t{number}" for number in range(33))
    assert (await server.request("GET", f"/events?{many}")).status == 400
    answer = await server.request("POST", "/topics/news/events", b"x")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_topic_named_events(server: Server) -> None:
    await server.publish("events", "1")
    stream = await server.subscribe("/topics/events?since=earliest")
    assert await stream.data(1) == ["1"]
    assert data(await get(server, "/topics/events/events")) == ["1"]


async def test_topics_of_the_broker_need_a_pattern_of_their_own(serve: Serve) -> None:
    server = await serve(jwt_secrets=json.dumps([HMAC.material]))
    for pattern, topic, status in (
        ("**", "news", 200),
        ("**", "_stats", 403),
        ("_stats", "_stats", 200),
        ("*", "_stats", 403),
        ("news", "other", 403),
    ):
        token = HMAC.token(subscribe=[pattern])
        for target in (
            f"/topics/{topic}/events",
            f"/events?topic={topic}",
            f"/topics/{topic}/events?wait=0s",
        ):
            answer = await server.request("GET", target, authorization=f"Bearer {token}")
            assert answer.status == status, (pattern, target)
    answer = await server.request("GET", f"/events?topic=a&access_token={HMAC.token(subscribe=['a'])}")
    assert answer.status == 200
    assert (await server.request("GET", "/topics/a/events")).status == 401


async def test_several_topics_are_merged_by_id(server: Server) -> None:
    for number in range(6):
        await server.publish("ab"[number % 2], str(number))
    await server.publish("c", "not asked for")
    found = await get(server, "/events?topic=a&topic=b&topic=a")
    assert "".join(data(found)) == "012345"
    assert [event["topic"] for event in found["events"]] == list("ababab")
    assert "".join(data(await get(server, "/events?topic=a&topic=b&last=2"))) == "2345"


async def test_before_gives_the_newest_that_lie_before(server: Server) -> None:
    ids = await publish(server, "news", *"12345")
    found = await get(server, f"/topics/news/events?before={ids[3]}&limit=2")
    assert (data(found), found["more"], found["cursor"]) == (["2", "3"], True, ids[2])
    found = await get(server, f"/topics/news/events?before={ids[1]}&limit=2")
    assert (data(found), found["more"]) == (["1"], False)
    assert data(await get(server, f"/topics/news/events?before={ids[4]}&since={ids[1]}")) == ["3", "4"]
    found = await get(server, f"/topics/news/events?before={ids[3]}&last=2")
    assert (data(found), found["more"]) == (["2", "3"], True), (
        "the newest two before it, not of the two newest"
    )
    found = await get(server, f"/topics/news/events?before={ids[3]}&last=50&limit=1")
    assert (data(found), found["more"]) == (["3"], True)
    assert data(await get(server, "/topics/news/events?before=99999999999999-0")) == list("12345")
    found = await get(server, f"/topics/news/events?before={ids[0]}")
    assert (data(found), found["more"], found["cursor"]) == ([], False, ids[4])


async def test_gaps_are_told(serve: Serve) -> None:
    server = await serve(retention_events=2)
    ids = await publish(server, "a", *"1234")
    await server.publish("b", "5")
    found = await get(server, f"/topics/a/events?lastEventId={ids[0]}")
    assert found["gap"] == {"topic": "a", "after": ids[0], "reason": "trimmed"}
    assert data(found) == ["3", "4"]
    assert (await get(server, f"/topics/a/events?lastEventId={ids[1]}"))["gap"] is None
    found = await get(server, "/topics/a/events?lastEventId=malformed")
    assert found["gap"] == {"topic": "a", "after": "malformed", "reason": "unknown-id"}
    assert data(found) == ["3", "4"]
    ahead = "99999999999999-0"
    found = await get(server, f"/topics/a/events?lastEventId={ahead}")
    assert found["gap"] == {"topic": "a", "after": ahead, "reason": "unknown-id"}
    assert data(found) == []
    found = await get(server, "/events?topic=a&topic=b&lastEventId=malformed")
    other = {"topic": "b", "after": "malformed", "reason": "unknown-id"}
    assert found["gap"] == {"topic": "a", "after": "malformed", "reason": "unknown-id", "also": [other]}
    assert (await get(server, "/topics/a/events?since=1h"))["gap"] is None, "only a cursor can have a gap"


async def test_closed_topics(server: Server) -> None:
    await close_topic(server, "done", "1")
    found = await get(server, "/topics/done/events")
    assert (data(found), found["more"], found["closed"]) == (["1"], False, True)
    found = await get(server, f"/topics/done/events?lastEventId={found['cursor']}")
    assert (data(found), found["closed"]) == ([], True)
    assert (await server.request("GET", "/topics/done", last_event_id=found["cursor"])).status == 204
    await server.publish("open", "2")
    found = await get(server, "/events?topic=done&topic=open")
    assert (data(found), found["closed"]) == (["1", "2"], False)
    found = await get(server, "/events?topic=done&wait=50s&since=latest")
    assert (data(found), found["closed"]) == ([], True), "it doesn't wait for what can't come"


async def test_ends_are_told(server: Server) -> None:
    await close_topic(server, "done", "1")
    await server.publish("open", "2")
    stream = await server.subscribe("/topics/done?since=earliest")
    await stream.end()
    found = await get(server, "/events?topic=done&topic=open")
    assert found["ends"] == [{"topic": "done", "id": stream.events[-1].id, "reason": "closed"}]
    assert reasons(await get(server, f"/topics/done/events?before={found['cursor']}")) == {"done": "closed"}
    assert "ends" not in await get(server, "/topics/open/events")


async def test_a_deleted_topic_shows_nothing_of_before(server: Server) -> None:
    ids = await publish(server, "news", "1", "2")
    await server.request("DELETE", "/topics/news")
    assert data(await get(server, "/topics/news/events")) == []
    await server.publish("news", "3")
    found = await get(server, f"/topics/news/events?lastEventId={ids[1]}")
    assert (data(found), found["gap"]) == (["3"], None)
    found = await get(server, f"/topics/news/events?lastEventId={ids[0]}")
    assert (data(found), found["gap"]["reason"]) == (["3"], "trimmed")
    assert data(await get(server, "/topics/news/events?before=99999999999999-0")) == ["3"]


@pytest.mark.parametrize("text", ["x", '"', "\x01", "\n"])
@pytest.mark.parametrize("direction", ["after", "before"])
async def test_an_answer_is_at_most_1_mib(serve: Serve, text: str, direction: str) -> None:
    server = await serve(retention_bytes=64 << 20, max_event_bytes=64 << 10)
    for number in range(40):
        await server.publish("big", text * (60 << 10) + str(number))
    seen: list[int] = []
    target = "/topics/big/events?" + ("before=99999999999999-0" if direction == "before" else "")
    more = True
    while more:
        answer = await server.request("GET", target)
        assert len(answer.body) <= 1 << 20
        found = answer.json()
        more = found["more"]
        numbers = [int(event["data"][60 << 10 :]) for event in found["events"]]
        if direction == "after":
            seen += numbers
            target = f"/topics/big/events?lastEventId={found['cursor']}"
        else:
            seen = numbers + seen
            target = f"/topics/big/events?before={found['events'][0]['id']}"
    assert seen == list(range(40))


async def test_an_event_larger_than_an_answer_comes_alone(serve: Serve) -> None:
    server = await serve(retention_bytes=64 << 20, max_event_bytes=4 << 20)
    await publish(server, "big", "1", "x" * (2 << 20), "3")
    sizes, target, more = [], "/topics/big/events", True
    while more:
        found = await get(server, target)
        sizes.append([len(text) for text in data(found)])
        target, more = f"/topics/big/events?lastEventId={found['cursor']}", found["more"]
    assert sizes == [[1], [2 << 20], [1]]


async def test_etag(server: Server) -> None:
    await publish(server, "news", "1")
    first = await server.request("GET", "/topics/news/events")
    tag = first.headers["etag"]
    for sent in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await server.request("GET", "/topics/news/events", if_none_match=sent)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == tag
        assert answer.headers["cache-control"] == "private, no-cache"
    await publish(server, "news", "2")
    answer = await server.request("GET", "/topics/news/events", if_none_match=tag)
    assert answer.status == 200
    assert answer.headers["etag"] != tag


async def test_head(server: Server) -> None:
    await publish(server, "news", "1")
    full = await server.request("GET", "/topics/news/events")
    answer = await server.request("HEAD", "/topics/news/events?wait=50s&since=earliest")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["etag"] == full.headers["etag"]
    assert answer.headers["content-length"] == str(len(full.body))
    assert (await server.request("HEAD", "/topics/silent/events?wait=50s")).status == 200, "it doesn't wait"


async def test_pages_of_other_origins(serve: Serve) -> None:
    server = await serve(cors_origins=("https://page.example",))
    await publish(server, "news", "1")
    answer = await server.request("GET", "/topics/news/events", origin="https://page.example")
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "ETag" in answer.headers["access-control-expose-headers"]
    waiting = await poll(server, "/topics/news/events?wait=50s&since=latest", "Origin: https://page.example")
    await publish(server, "news", "2")
    answer = await waiting.answer()
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert answer.headers["vary"] == "Origin"
