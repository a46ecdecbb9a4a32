"""The clients that reconnect, against a real broker: what all must do, and in which ways some can't."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Protocol

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError
from aiohttp_sse_client2.client import EventSource
from playwright.async_api import Page

from tests.live.clients import CLIENTS, Reconnecting
from tests.live.event_source import CLOSED, CONNECTING, CONTROL, OPEN, Follower, Received, Source
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.cutting_proxy import CuttingProxy, cut_events
from tests.support.tcp_proxy import PatientProxy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
ATTEMPTS = 10


RECONNECTING = {name: client.reconnecting for name, client in CLIENTS.items() if client.reconnecting}


class Follow(Protocol):
    """Follows topic `news` with the client; `types` are those that an EventSource listens for."""

    def __call__(self, url: str, types: tuple[str, ...] = ...) -> Awaitable[Follower]: ...


@pytest.fixture(params=RECONNECTING)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def those_with(condition: Callable[[Reconnecting], object]) -> pytest.MarkDecorator:
    """The test runs with the clients of which `condition` is true."""
    names = [name for name, client in RECONNECTING.items() if condition(client)]
    return pytest.mark.parametrize("client", names, indirect=True)


@pytest_asyncio.fixture(loop_scope="session")
async def follow(client: str, runs_in: Page | str | None) -> AsyncIterator[Follow]:
    async with AsyncExitStack() as stack:

        async def start(url: str, types: tuple[str, ...] = CONTROL) -> Follower:
            return await stack.enter_async_context(CLIENTS[client].open(runs_in, f"{url}/topics/news", types))

        yield start


async def test_events_arrive_as_published(follow: Follow, broker: BrokerProcess) -> None:
    source = await follow(broker.url, ("alert", *CONTROL))
    await source.wait_for_events(1)
    text = "line one\nline two\r\nzweite Zeile: Grüße 🎈\u2028\u0085."
    ids = [broker.publish("news", text), broker.publish("news", '{"level":3}', event="alert")]
    opened, *events = await source.wait_for_events(3)
    assert (opened.type, opened.data) == ("broker.open", '{"topics":["news"]}')
    assert events == [
        Received("message", text.replace("\r", ""), ids[0], OPEN),
        Received("alert", '{"level":3}', ids[1], OPEN),
    ]


async def test_heartbeats_are_no_events(follow: Follow, quick_broker: BrokerProcess) -> None:
    with CuttingProxy(quick_broker.port) as proxy:
        source = await follow(proxy.url)
        await source.wait_for_events(1)
        quick_broker.publish("news", "before")
        await source.wait_for_events(2)
        wait_for(lambda: proxy.heartbeats() >= 6, "heartbeats")
        quick_broker.publish("news", "after")
        events = await source.wait_for_events(3)
    assert [(each.type, each.data) for each in events[1:]] == [("message", "before"), ("message", "after")]


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_every_event_once_in_order_wherever_it_is_cut(
    follow: Follow, client: str, reset: bool, quick_broker: BrokerProcess
) -> None:
    cuts = cut_events(RECONNECTING[client].cuts, reset=reset)
    with CuttingProxy(quick_broker.port, cuts.values()) as proxy:
        source = await follow(proxy.url)
        await source.wait_for_events(1)
        ids = [quick_broker.publish("news", data) for data in (*cuts, "end")]
        _opened, *events = await source.wait_for_last("end")
        assert proxy.streams == len(cuts) + 1
    assert [(event.data, event.id) for event in events] == list(zip((*cuts, "end"), ids, strict=True))


@pytest.mark.parametrize(
    ("client", "offset", "expected"),
    [
        (name, offset, data)
        for name, client in RECONNECTING.items()
        for offset, data in client.defects.items()
    ],
    indirect=["client"],
)
async def test_a_defect_of_the_client_spoils_a_cut_event(
    follow: Follow, offset: int, expected: Sequence[str], quick_broker: BrokerProcess
) -> None:
    """Why such cuts are left out above. Fails when the client has been mended.

    A few attempts: Chromium drops bytes that arrived just before a cut if its page has not read them yet, and then the client sees no
    part of the event.
    """
    cuts = cut_events([offset])
    (cut,) = cuts
    for attempt in range(ATTEMPTS):
        with CuttingProxy(quick_broker.port, cuts.values()) as proxy:
            source = await follow(proxy.url)
            await source.wait_for_events(1)
            quick_broker.publish("news", cut)
            quick_broker.publish("news", f"end {attempt}")
            _opened, *events = await source.wait_for_last(f"end {attempt}")
        received = [event.data for event in events]
        if received == [data.format(cut, f"end {attempt}") for data in expected]:
            return
        assert received == [cut, f"end {attempt}"]
    pytest.fail(f"the client received each event whole, {ATTEMPTS} times")


@those_with(lambda client: client.own_delay)
async def test_retry_is_honoured(follow: Follow, client: str, quick_broker: BrokerProcess) -> None:
    cuts = cut_events(range(10))
    with CuttingProxy(quick_broker.port, cuts.values()) as proxy:
        source = await follow(proxy.url)
        await source.wait_for_events(1)
        for data in (*cuts, "end"):
            quick_broker.publish("news", data)
        await source.wait_for_last("end")
        assert not proxy.cuts_left
    own_delay = RECONNECTING[client].own_delay
    assert own_delay
    assert proxy.shortest_pause() < own_delay, "it waited its own delay, not the 50 ms that the broker named"


@those_with(lambda client: client.persists)
@pytest.mark.parametrize("drained", [True, False], ids=["sigterm", "sigkill"])
async def test_server_that_comes_back_with_nothing_tells_of_the_gap(
    follow: Follow, shared_brokers: SharedBrokers, drained: bool
) -> None:
    broker = shared_brokers.get(retry_min_ms=300, retry_max_ms=300)
    source = await follow(broker.url)
    await source.wait_for_events(1)
    cursor = broker.publish("news", "before")
    await source.wait_for_events(2)
    await asyncio.to_thread(broker.terminate if drained else broker.kill)
    await asyncio.to_thread(broker.start)
    await source.wait_for_events(3)
    after = broker.publish("news", "after")
    events = await source.wait_for_events(4)
    received = await source.received()
    assert [event.type for event in events] == ["broker.open", "message", "broker.gap", "message"]
    assert events[2].data == f'{{"topic":"news","after":"{cursor}","reason":"lost"}}'
    assert events[3] == Received("message", "after", after, OPEN)
    assert {each.state for each in received if each.type == "error"} == {CONNECTING}
    assert [each.type for each in received].count("open") == 2


@those_with(lambda client: client.persists)
async def test_over_capacity_it_keeps_trying(follow: Follow) -> None:
    with BrokerProcess(max_connections=1) as broker:
        first = await follow(broker.url)
        await first.wait_for_events(1)
        second = await follow(broker.url)
        await second.wait_for_error()
        broker.publish("news", "to the first")
        assert (await first.wait_for_last("first"))[1].data == "to the first"
        assert [(each.type, each.state) for each in await second.received()] == [
            ("open", OPEN),
            ("error", CONNECTING),
        ]
        assert broker.metric('broker_refused_connects_total{reason="overloaded"}') == 1


# aiohttp-sse-client2, which reconnects once, and not after a cut


async def test_a_server_that_is_down_is_left_to_its_user(quick_broker: BrokerProcess) -> None:
    url = f"{quick_broker.url}/topics/news"
    async with EventSource(url, reconnection_time=timedelta(milliseconds=50)) as source:
        cursor = (await anext(source)).last_event_id
        quick_broker.kill()
        with pytest.raises(ClientPayloadError):
            await anext(source)
    quick_broker.start()
    async with EventSource(url, headers={"Last-Event-ID": cursor}) as source:
        assert (await anext(source)).type == "broker.gap"


async def test_it_comes_back_to_a_drained_server_that_is_up_again() -> None:
    """It tries once, so a proxy lets it wait until the server is up."""
    with BrokerProcess(retry_min_ms=50, retry_max_ms=50) as broker:
        async with (
            PatientProxy(broker.port) as proxy,
            EventSource(f"{proxy.url}/topics/news") as source,
        ):
            cursor = (await anext(source)).last_event_id
            following = asyncio.ensure_future(anext(source))
            await asyncio.to_thread(broker.terminate)
            await asyncio.to_thread(broker.start)
            gap = await following
            assert (gap.type, gap.data) == (
                "broker.gap",
                f'{{"topic":"news","after":"{cursor}","reason":"lost"}}',
            )


# Chromium's EventSource


async def _follow(page: Page, broker: BrokerProcess, path: str = "/topics/news") -> Source:
    await page.goto(f"{broker.url}/healthz")
    return await Source.follow(page, path)


async def test_silent_topic_opens_at_once(page: Page, broker: BrokerProcess) -> None:
    source = await _follow(page, broker, "/topics/silent")
    await source.wait_for_events(1)
    opened, first = await source.received()
    assert opened == Received("open", None, None, OPEN)
    assert (first.type, first.data) == ("broker.open", '{"topics":["silent"]}')
    assert first.id


async def test_every_kind_of_text_arrives(page: Page, broker: BrokerProcess) -> None:
    await page.goto(f"{broker.url}/healthz")
    source = await Source.follow(page, "/topics/news", ("größe", *CONTROL))
    await source.wait_for_events(1)
    text = "line one\nline two\r\n\rzweite Zeile: Grüße 🎈 \ufeff\u2028\u0085 <b>&amp;</b>\n"
    sent = [("message", text), ("größe", " leading space")]
    sent += [("message", data) for data in (": no comment", "", "data: id: 7")]
    for event_type, data in sent:
        broker.publish("news", data, **({"event": event_type} if event_type != "message" else {}))
    received = [(event.type, event.data) for event in (await source.wait_for_events(6))[1:]]
    assert received == [("message", text.replace("\r\n\r", "\n\n")), *sent[1:]]


async def test_several_topics_in_envelopes_on_one_onmessage(page: Page, broker: BrokerProcess) -> None:
    source = await _follow(page, broker, "/topics?topic=a&topic=b&envelope=json")
    await source.wait_for_events(1)
    ids = [
        broker.publish("a", "eins\nzwei", event="kind"),
        broker.publish("b", "drei"),
        broker.publish("a", "vier"),
    ]
    opened, *events = await source.wait_for_events(4)
    assert opened.data == '{"topics":["a","b"]}'
    assert [(event.type, event.id) for event in events] == [("message", event_id) for event_id in ids]
    envelopes = [json.loads(event.data or "") for event in events]
    assert all(envelope.pop("time").endswith("Z") for envelope in envelopes)
    assert envelopes == [
        {"topic": "a", "id": ids[0], "event": "kind", "data": "eins\nzwei"},
        {"topic": "b", "id": ids[1], "event": None, "data": "drei"},
        {"topic": "a", "id": ids[2], "event": None, "data": "vier"},
    ]


async def test_malformed_cursor_is_a_gap_and_all_that_is_kept(page: Page, broker: BrokerProcess) -> None:
    kept = broker.publish("news", "kept")
    source = await _follow(page, broker, "/topics/news?lastEventId=no+cursor")
    gap, event = await source.wait_for_events(2)
    assert (gap.type, json.loads(gap.data or "")) == (
        "broker.gap",
        {"topic": "news", "after": "no cursor", "reason": "unknown-id"},
    )
    assert event == Received("message", "kept", kept, OPEN)


async def test_deleted_topic_ends_and_its_name_goes_on(page: Page, quick_broker: BrokerProcess) -> None:
    source = await _follow(page, quick_broker)
    await source.wait_for_events(1)
    quick_broker.publish("news", "before")
    await source.wait_for_events(2)
    deleted = await page.evaluate(
        "async () => (await fetch('/topics/news', {method: 'DELETE'})).status",
    )
    assert deleted == 204
    await source.wait_for("received.filter(({type}) => type == 'open').length == 2")
    quick_broker.publish("news", "after")
    events = await source.wait_for_events(4)
    assert [event.type for event in events] == ["broker.open", "message", "broker.end", "message"]
    assert json.loads(events[2].data or "") == {"topic": "news", "reason": "deleted"}
    assert (events[2].id or "") > (events[1].id or "")
    assert events[3].data == "after"


async def test_closed_source_is_noticed(page: Page, broker: BrokerProcess) -> None:
    source = await _follow(page, broker)
    await source.wait_for_events(1)
    assert broker.metric("broker_subscribers") == 1
    closed = broker.metric('broker_closes_total{reason="client"}')
    await source.close()
    wait_for(lambda: broker.metric("broker_subscribers") == 0, "the broker to notice")
    assert broker.metric('broker_closes_total{reason="client"}') == closed + 1


async def test_event_source_stops_when_it_has_the_end(page: Page, quick_broker: BrokerProcess) -> None:
    quick_broker.publish("answer", "1")
    source = await _follow(page, quick_broker, "/topics/answer?since=earliest")
    await source.wait_for_events(1)
    quick_broker.publish("answer", "2", end="true")
    await source.wait_for(f"source.readyState == {CLOSED}")
    events = await source.events()
    assert [event.type for event in events] == ["message", "message", "broker.end"]
    assert json.loads(events[-1].data or "") == {"topic": "answer", "reason": "closed"}
    again = await Source.follow(page, f"/topics/answer?lastEventId={events[-1].id}")
    await again.wait_for(f"source.readyState == {CLOSED}")
    assert await again.events() == []


async def test_event_source_that_comes_too_late_stops_too(page: Page, quick_broker: BrokerProcess) -> None:
    quick_broker.publish("answer", "1", end="true")
    source = await _follow(page, quick_broker, "/topics/answer")
    await source.wait_for(f"source.readyState == {CLOSED}")
    assert [event.type for event in await source.events()] == ["broker.open", "broker.end"]


async def test_event_source_of_two_topics_of_which_one_has_ended(
    page: Page, quick_broker: BrokerProcess
) -> None:
    quick_broker.publish("a", "1", end="true")
    source = await _follow(page, quick_broker, "/topics?topic=a&topic=b")
    await source.wait_for_events(3)
    quick_broker.publish("b", "goes on")
    events = await source.wait_for_events(4)
    assert [event.type for event in events] == ["broker.open", "broker.end", "broker.open", "message"]
    quick_broker.publish("b", "", end="true")
    await source.wait_for(f"source.readyState == {CLOSED}")
