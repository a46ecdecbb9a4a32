"""Handlers on plain values: called without a server, as any adapter calls them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from time import time
from types import TracebackType

import pytest

from broker import sse
from broker.auth.grants import FULL_ACCESS
from broker.errors import (
    BrokerError,
    InvalidBody,
    InvalidParameter,
    InvalidTopic,
    TooLarge,
    Unavailable,
)
from broker.metrics import Metrics
from broker.process.app import make_node
from broker.settings import Settings
from broker.stores.base import NO_OPTIONS
from broker.web import publish as publishing
from broker.web.body_reader import BodyReader
from broker.web.client_address import ClientAddresses
from broker.web.cors import AllowedOrigins
from broker.web.guard import Guard
from broker.web.headers import ResponseHeaders
from broker.web.identity import Authenticator
from broker.web.producers import Producers
from broker.web.publish import cancel, publish_to_several
from broker.web.refusals import Refusals
from broker.web.request_measures import RequestMeasures
from broker.web.services import Services
from broker.web.subscribe import Subscription, subscribe
from broker.web.topics import SLICE_TOPICS, delete_topic, read_topic, read_topics
from broker.web.unread_answers import UnreadAnswers
from broker.web.values import Answer, Request
from tests.web.body_timeouts import body_limits, timeouts
from tests.web.requests import Body, plain_request

NDJSON = ("Content-Type", "application/x-ndjson")
EVENT_STREAM = ("Content-Type", "text/event-stream")


async def publish(services: Services, request: Request) -> Answer:
    """The handler's answer, whether it comes at once or later."""
    answer = publishing.publish(services, request)
    return answer if isinstance(answer, Answer) else await answer


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    settings = Settings(max_event_bytes=100)
    metrics = Metrics()
    node = make_node(settings, metrics, time)
    origins = AllowedOrigins(())
    guard = Guard(checks_host=True, allowed_hosts=(), origins=origins)
    addresses = ClientAddresses(())
    measures = RequestMeasures((), metrics)
    made = Services(
        settings,
        node,
        Authenticator(FULL_ACCESS, None, None, node.streams.evictions, guard, None, time),
        BodyReader(timeouts(metrics), body_limits(metrics)),
        Producers(node, 10),
        ResponseHeaders(origins),
        UnreadAnswers(metrics, settings.max_event_bytes),
        Refusals(node.reporter, addresses, measures),
        addresses,
        measures,
    )
    await node.start()
    made.producers.start()
    yield made
    await made.producers.stop()
    await node.stop()


def value_of(answer: Answer) -> dict[str, object]:
    value = json.loads(answer.body)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("has_arrived", [True, False])
async def test_publish_one(services: Services, has_arrived: bool) -> None:
    body = Body(b"he", b"llo", length=5, has_arrived=has_arrived)
    answer = await publish(services, plain_request("POST", "/topics/news", body=body, topic="news"))
    assert answer.status == 201
    value = value_of(answer)
    assert value["topic"] == "news"
    state = value_of(await describe(services, "news"))
    assert (state["events"], state["last_id"]) == (1, value["id"])


async def describe(services: Services, topic: str) -> Answer:
    request = plain_request("GET", f"/topics/{topic}", ("Accept", "application/json"), topic=topic)
    answer = await read_topic(services, request)
    assert isinstance(answer, Answer)
    return answer


async def test_i9_a_long_list_is_made_in_slices(services: Services) -> None:
    """1,000 topics took 4 ms in one step."""
    for number in range(1000):
        await services.node.publish([(f"t{number:03}", sse.lines(b""))], None, NO_OPTIONS)
    request = plain_request("GET", "/topics?limit=1000", ("Accept", "application/json"))
    making, steps = read_topics(services, request), 0
    try:
        while making.send(None) is None:  # it lets others run
            steps += 1
    except StopIteration as returned:
        answer = returned.value
    assert steps >= 1000 // SLICE_TOPICS
    names = [topic["topic"] for topic in value_of(answer)["topics"]]  # type: ignore[attr-defined]
    assert names == [f"t{number:03}" for number in range(1000)]


async def test_a_repeated_key_gets_the_first_answer(services: Services) -> None:
    answers = [
        await publish(
            services,
            plain_request(
                "POST",
                "/topics/news",
                ("idempotency-key", "k"),
                body=Body(b"x", has_arrived=True),
                topic="news",
            ),
        )
        for _ in range(2)
    ]
    assert answers[0].body == answers[1].body
    assert ["Idempotency-Replayed" in answer.headers for answer in answers] == [False, True]


BAD = [
    (InvalidTopic, "", (), Body(has_arrived=True), "a..b"),
    (InvalidParameter, "?event=broker.x", (), Body(has_arrived=True), "news"),
    (InvalidParameter, "?event=%ff", (), Body(has_arrived=True), "news"),
    (InvalidParameter, "?end=maybe", (), Body(has_arrived=True), "news"),
    (InvalidBody, "", (), Body(b"\xff", has_arrived=True), "news"),
    (InvalidBody, "", (("Content-Encoding", "gzip"),), Body(has_arrived=True), "news"),
    (TooLarge, "", (), Body(b"x" * 101, has_arrived=True), "news"),
    (TooLarge, "", (), Body(b"x" * 60, b"x" * 60), "news"),
    (TooLarge, "", (), Body(length=101), "news"),
]


@pytest.mark.parametrize(("error", "query", "headers", "body", "topic"), BAD)
async def test_a_bad_publish_raises(
    services: Services,
    error: type[BrokerError],
    query: str,
    headers: tuple[tuple[str, str], ...],
    body: Body,
    topic: str,
) -> None:
    with pytest.raises(error):
        await publish(
            services, plain_request("POST", f"/topics/{topic}{query}", *headers, body=body, topic=topic)
        )


async def test_publish_to_several(services: Services) -> None:
    request = plain_request("POST", "/topics?topic=a&topic=b&topic=a", body=Body(b"x", has_arrived=True))
    answer = await publish_to_several(services, request)
    ids = value_of(answer)["ids"]
    assert isinstance(ids, dict)
    assert list(ids) == ["a", "b"]


async def test_streamed_body_is_published_as_it_arrives(services: Services) -> None:
    class Arriving(Body):
        def take(self) -> bytes | None:
            counts.append(services.node.metrics.registry.get_sample_value("broker_published_events_total"))
            return super().take()

    counts: list[object] = []
    body = Arriving(b'{"data": "one"}\n{"da', b'ta": "two"}\n', b'{"data": 3}')
    answer = await publish(services, plain_request("POST", "/topics/news", NDJSON, body=body, topic="news"))
    assert answer.status == 200
    assert value_of(answer)["published"] == 3
    assert counts == [0, 1, 2, 2]


async def test_a_fault_in_a_streamed_body_says_how_far_it_came(services: Services) -> None:
    body = Body(b'{"data": "one"}\nnonsense\n')
    with pytest.raises(InvalidBody) as raised:
        await publish(services, plain_request("POST", "/topics/news", NDJSON, body=body, topic="news"))
    assert raised.value.extra == {"line": 2, "published": 1}


async def test_piped_event_stream(services: Services) -> None:
    body = Body(b"data: one\n\ndata:", b" two\n\n")
    answer = await publish(
        services, plain_request("POST", "/topics/news?end=true", EVENT_STREAM, body=body, topic="news")
    )
    assert (value_of(answer)["published"], value_of(answer)["closed"]) == (2, True)


async def test_cancel(services: Services) -> None:
    answer = await cancel(services, plain_request("POST", "/topics/news/cancel", topic="news"))
    assert (answer.status, answer.body) == (202, b"")


async def test_bodies_that_have_not_arrived_are_refused_at_the_end(services: Services) -> None:
    services.bodies.stop()
    with pytest.raises(Unavailable):
        await publish(services, plain_request("POST", "/topics/news", body=Body(b"x"), topic="news"))
    answer = await publish(
        services, plain_request("POST", "/topics/news", body=Body(b"x", has_arrived=True), topic="news")
    )
    assert answer.status == 201


async def test_a_subscription_holds_the_logs_until_it_is_released(services: Services) -> None:
    result = await subscribe(services, plain_request("GET", "/topics/news"), ("news",))
    assert isinstance(result, Subscription)
    assert result.topics == ("news",)
    listed = value_of(await list_topics(services))["topics"]
    assert [topic["topic"] for topic in listed] == ["news"]  # type: ignore[attr-defined]
    result.release()
    assert value_of(await list_topics(services))["topics"] == []


async def list_topics(services: Services) -> Answer:
    answer = await read_topics(services, plain_request("GET", "/topics", ("Accept", "application/json")))
    assert isinstance(answer, Answer)
    return answer


async def test_several_topics_are_one_subscription(services: Services) -> None:
    result = await read_topics(services, plain_request("GET", "/topics?topic=a&topic=b"))
    assert isinstance(result, Subscription)
    assert result.topics == ("a", "b")
    result.release()


async def test_head_is_no_subscription(services: Services) -> None:
    answer = await read_topic(services, plain_request("HEAD", "/topics/news", topic="news"))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")


async def test_nothing_more_comes_behind_the_end(services: Services) -> None:
    body = Body(b"bye", has_arrived=True)
    await publish(services, plain_request("POST", "/topics/news?end=true", body=body, topic="news"))
    last_id = value_of(await describe(services, "news"))["last_id"]
    request = plain_request("GET", "/topics/news", ("Last-Event-ID", str(last_id)), topic="news")
    answer = await read_topic(services, request)
    assert isinstance(answer, Answer)
    assert answer.status == 204


async def test_a_refused_event_source_is_asked_to_come_back(services: Services) -> None:
    services.node.streams.is_draining = True
    request = plain_request("GET", "/topics/news", ("Accept", "text/event-stream"), topic="news")
    answer = await read_topic(services, request)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.closes) == (200, True)
    assert answer.body.startswith(b"retry: ")
    with pytest.raises(Unavailable):
        await read_topic(services, plain_request("GET", "/topics/news", topic="news"))


async def test_delete(services: Services) -> None:
    await publish(
        services, plain_request("POST", "/topics/news", body=Body(b"x", has_arrived=True), topic="news")
    )
    answer = await delete_topic(services, plain_request("DELETE", "/topics/news", topic="news"))
    assert answer.status == 204
    assert value_of(await describe(services, "news"))["events"] == 0


def faults() -> list[tuple[str, tuple[str, str], Body]]:
    text = ("Content-Type", "text/plain")
    return [
        ("news", text, Body(b"\xff" * 50, has_arrived=True)),
        ("news", text, Body(b"x" * 101)),
        ("ended", text, Body(b"x" * 50)),
        ("news", NDJSON, Body(b'{"data": "one"}\n', b"nonsense\n")),
        ("news", NDJSON, Body(b'{"data": "' + b"x" * 101 + b'"}')),
        ("news", NDJSON, Body(b"x" * 10_000)),
        ("news", EVENT_STREAM, Body(b"data: one\n\ndata: \xff\n\n")),
        ("news", EVENT_STREAM, Body(b"data: one\n\n", b"data: " + b"x" * 101 + b"\n\n")),
        ("news", EVENT_STREAM, Body(b"data: x\n" * 3000)),
        ("news", EVENT_STREAM, Body(b"data: one")),
    ]


@pytest.mark.parametrize("number", range(len(faults())))
async def test_a_fault_leaves_nothing_to_the_collector(services: Services, number: int) -> None:
    """A kept exception keeps its traceback, and its frames keep the body."""
    await publish(services, plain_request("POST", "/topics/ended?end=true", topic="ended"))
    topic, content_type, body = faults()[number]
    request = plain_request("POST", f"/topics/{topic}", content_type, body=body, topic=topic)

    def exceptions() -> list[object]:
        return [thing for thing in gc.get_objects() if isinstance(thing, (BrokerError, TracebackType))]

    gc.collect()
    gc.disable()
    try:
        before = set(map(id, others := exceptions()))  # of other tests
        with contextlib.suppress(BrokerError):
            await publish(services, request)
        await asyncio.sleep(0)
        left = [thing for thing in exceptions() if id(thing) not in before]
    finally:
        gc.enable()
        del others
    assert left == []
