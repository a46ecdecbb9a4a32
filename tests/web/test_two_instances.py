"""Ends, marks, cancels and silent streams over two instances with one store (contract §2, §3)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

import pytest

from broker.settings import Settings
from tests.stores.conftest import PROGRAMS, find_program
from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Server
from tests.support.redis_servers import Server as RedisServer
from tests.web.streamed_body import StreamedBody, events

Pair = tuple[Server, Server]


@pytest.fixture(params=PROGRAMS)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    with RedisServer(tmp_path / "0", find_program(request.param)) as store:
        settings = Settings.model_validate({"redis_url": store.url, "retention_events": 2})
        made = Server(settings, time), Server(settings, time)
        for server in made:
            await server.start()
        yield made
        for server in made:
            await server.stop()


async def reason_of(stream: AsyncStream) -> str:
    await stream.end()
    assert stream.events[-1].type == "broker.end"
    return str(json.loads(stream.events[-1].data)["reason"])


async def test_a_silent_stream(pair: Pair) -> None:
    one, other = pair
    first = await one.publish("a", "1")
    last = [await other.publish("a", text) for text in ("2", "3", "4")][-1]
    for server in pair:
        for target in ("/topics/a?control=none", "/topics?topic=a&topic=b&control=none"):
            for cursor, reason in ((first, "trimmed"), ("zzz", "unknown-id")):
                problem = (await server.request("GET", target, last_event_id=cursor)).json()
                assert (problem["status"], problem["code"]) == (410, "gap")
                assert (problem["topic"], problem["after"], problem["reason"]) == ("a", cursor, reason)
    stream = await one.subscribe(
        "/topics?topic=a&topic=b&control=none", last_event_id=last, accept="application/json"
    )
    await other.publish("a", "5", "?end=true&reason=failed")
    await one.request("POST", "/topics/b?end=true")
    assert b"broker." not in await stream.end()
    assert [event.data for event in stream.events] == ["5"]
    assert stream.is_complete
    assert await reason_of(await one.subscribe("/topics/a?since=earliest")) == "failed"


async def test_a_cancel_ends_the_topic_of_a_body_on_another_instance(pair: Pair) -> None:
    one, other = pair
    stream = await other.subscribe("/topics/a")
    body = await StreamedBody.open(one, "/topics/a?end=on-disconnect&end_data=x")
    await body.send(events("1"))
    await stream.data(1)
    assert (await other.request("POST", "/topics/a/cancel")).status == 202
    problem = (await body.answer()).json()
    assert (problem["status"], problem["code"], problem["closed"]) == (409, "cancelled", True)
    assert await reason_of(stream) == "cancelled"
    assert (await other.request("POST", "/topics/b/cancel")).status == 202
    state = await one.request("GET", "/topics/b", accept="application/json")
    assert state.json()["closed"] is False


async def test_a_body_that_was_cut_is_completed_on_another_instance(pair: Pair) -> None:
    answers = []
    for server, texts in zip(pair, (("1",), ("1", "[DONE]")), strict=True):
        body = await StreamedBody.open(
            server,
            "/topics/a?end=true&end_data=%5BDONE%5D&reason=done",
            broker_producer="p",
            broker_sequence="1",
        )
        await body.send(events(*texts))
        answers.append((await body.end()).json())
    assert (answers[0]["code"], answers[0]["published"]) == ("incomplete", 1)
    assert (answers[1]["published"], answers[1]["known"], answers[1]["closed"]) == (1, 1, True)
    assert await reason_of(await pair[0].subscribe("/topics/a?since=earliest")) == "done"
