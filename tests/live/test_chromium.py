"""Chromium's own EventSource, on a page of the broker's origin."""

from __future__ import annotations

import asyncio
import json

import pytest
from playwright.async_api import Page

from tests.live.event_source import CLOSED, CONNECTING, CONTROL, OPEN, Source
from tests.live.node import Received
from tests.support.broker_process import BrokerProcess
from tests.support.cutting_proxy import FRAME_BYTES, CuttingProxy, cut_events
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's


async def _on(page: Page, url: str) -> None:
    await page.goto(f"{url}/healthz")


async def test_silent_topic_opens_at_once(page: Page, broker: BrokerProcess) -> None:
    await _on(page, broker.url)
    source = await Source.follow(page, "/topics/silent")
    await source.wait_for("received.length >= 2", within_ms=5000)
    opened, first = await source.received()
    assert opened == Received("open", None, None, OPEN)
    assert (first.type, first.data) == ("broker.open", '{"topics":["silent"]}')
    assert first.id


async def test_events_arrive_as_published(page: Page, broker: BrokerProcess) -> None:
    await _on(page, broker.url)
    source = await Source.follow(page, "/topics/news", ("alert", "größe", *CONTROL))
    await source.wait_for_events(1)
    text = "line one\nline two\r\n\rzweite Zeile: Grüße 🎈 \ufeff\u2028\u0085 <b>&amp;</b>\n"
    ids = [
        broker.publish("news", text),
        broker.publish("news", '{"level":3}', event="alert"),
        broker.publish("news", " leading space", event="größe"),
        broker.publish("news", ": no comment"),
        broker.publish("news", ""),
        broker.publish("news", "data: id: 7"),
    ]
    assert (await source.wait_for_events(7))[1:] == [
        Received(event_type, data, event_id, OPEN)
        for (event_type, data), event_id in zip(
            [
                ("message", "line one\nline two\n\nzweite Zeile: Grüße 🎈 \ufeff\u2028\u0085 <b>&amp;</b>\n"),
                ("alert", '{"level":3}'),
                ("größe", " leading space"),
                ("message", ": no comment"),
                ("message", ""),
                ("message", "data: id: 7"),
            ],
            ids,
            strict=True,
        )
    ]


async def test_several_topics_in_envelopes_on_one_onmessage(page: Page, broker: BrokerProcess) -> None:
    await _on(page, broker.url)
    source = await Source.follow(page, "/topics?topic=a&topic=b&envelope=json")
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


async def test_heartbeats_are_no_events(page: Page, quick_broker: BrokerProcess) -> None:
    with CuttingProxy(quick_broker.port) as proxy:
        await _on(page, proxy.url)
        source = await Source.follow(page, "/topics/news")
        await source.wait_for_events(1)
        quick_broker.publish("news", "before")
        await source.wait_for_events(2)
        wait_for(lambda: proxy.heartbeats() >= 6, "heartbeats")
        quick_broker.publish("news", "after")
        await source.wait_for_events(3)
        received = await source.received()
    assert [each.type for each in received] == ["open", "broker.open", "message", "message"]


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_every_event_once_in_order_wherever_it_is_cut(
    page: Page, reset: bool, quick_broker: BrokerProcess
) -> None:
    cuts = cut_events(range(FRAME_BYTES + 1), reset=reset)
    with CuttingProxy(quick_broker.port, cuts.values()) as proxy:
        await _on(page, proxy.url)
        source = await Source.follow(page, "/topics/news")
        await source.wait_for_events(1)
        ids = [quick_broker.publish("news", data) for data in (*cuts, "end")]
        await source.wait_for("received.at(-1).data == 'end'", within_ms=60_000)
        _opened, *events = await source.events()
        assert proxy.streams == len(cuts) + 1
    assert [event.data for event in events] == [*cuts, "end"]
    assert [event.id for event in events] == ids


async def test_retry_is_honoured(page: Page, quick_broker: BrokerProcess) -> None:
    own_delay = 3.0
    cuts = cut_events(range(10))
    with CuttingProxy(quick_broker.port, cuts.values()) as proxy:
        await _on(page, proxy.url)
        source = await Source.follow(page, "/topics/news")
        await source.wait_for_events(1)
        for data in (*cuts, "end"):
            quick_broker.publish("news", data)
        await source.wait_for("received.at(-1).data == 'end'", within_ms=60_000)
    assert proxy.shortest_pause() < own_delay, "it waited its own delay, not the 50 ms that the broker named"


@pytest.mark.parametrize("drained", [True, False], ids=["sigterm", "sigkill"])
async def test_server_that_comes_back_with_nothing_tells_of_the_gap(page: Page, drained: bool) -> None:
    with BrokerProcess(retry_min_ms=300, retry_max_ms=300) as broker:
        await _on(page, broker.url)
        source = await Source.follow(page, "/topics/news")
        await source.wait_for_events(1)
        cursor = broker.publish("news", "before")
        await source.wait_for_events(2)
        await asyncio.to_thread(broker.terminate if drained else broker.kill)
        await source.wait_for("received.at(-1).type == 'error'")
        assert await source.state() == CONNECTING
        await asyncio.to_thread(broker.start)
        await source.wait_for_events(3)
        after = broker.publish("news", "after")
        events = await source.wait_for_events(4)
        received = await source.received()
    assert [event.type for event in events] == ["broker.open", "message", "broker.gap", "message"]
    assert events[2] == Received(
        "broker.gap", f'{{"topic":"news","after":"{cursor}","reason":"lost"}}', cursor, OPEN
    )
    assert events[3] == Received("message", "after", after, OPEN)
    assert {each.state for each in received if each.type == "error"} == {CONNECTING}
    assert [each.type for each in received].count("open") == 2


async def test_malformed_cursor_is_a_gap_and_all_that_is_kept(page: Page, broker: BrokerProcess) -> None:
    kept = broker.publish("news", "kept")
    await _on(page, broker.url)
    source = await Source.follow(page, "/topics/news?lastEventId=no+cursor")
    gap, event = await source.wait_for_events(2)
    assert (gap.type, json.loads(gap.data or "")) == (
        "broker.gap",
        {"topic": "news", "after": "no cursor", "reason": "unknown-id"},
    )
    assert event == Received("message", "kept", kept, OPEN)


async def test_deleted_topic_ends_and_its_name_goes_on(page: Page, quick_broker: BrokerProcess) -> None:
    await _on(page, quick_broker.url)
    source = await Source.follow(page, "/topics/news")
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


async def test_over_capacity_it_keeps_trying(page: Page) -> None:
    with BrokerProcess(max_connections=1) as broker:
        await _on(page, broker.url)
        first = await Source.follow(page, "/topics/news")
        await first.wait_for_events(1)
        second = await Source.follow(page, "/topics/news")
        await second.wait_for("received.some(({type}) => type == 'error')")
        assert await second.state() == CONNECTING
        assert [(each.type, each.state) for each in await second.received()] == [
            ("open", OPEN),
            ("error", CONNECTING),
        ]
        broker.publish("news", "to the first")
        assert [event.data for event in (await first.wait_for_events(2))[1:]] == ["to the first"]
        assert await first.state() == OPEN
        assert broker.metric('broker_refused_connects_total{reason="overloaded"}') == 1


async def test_closed_source_is_noticed(page: Page, broker: BrokerProcess) -> None:
    await _on(page, broker.url)
    source = await Source.follow(page, "/topics/news")
    await source.wait_for_events(1)
    assert broker.metric("broker_subscribers") == 1
    await source.close()
    wait_for(lambda: broker.metric("broker_subscribers") == 0, "the broker to notice")
    assert broker.metric('broker_closes_total{reason="client"}') == 1


async def test_event_source_stops_when_it_has_the_end(page: Page, quick_broker: BrokerProcess) -> None:
    quick_broker.publish("answer", "1")
    await _on(page, quick_broker.url)
    source = await Source.follow(page, "/topics/answer?since=earliest")
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
    await _on(page, quick_broker.url)
    source = await Source.follow(page, "/topics/answer")
    await source.wait_for(f"source.readyState == {CLOSED}")
    assert [event.type for event in await source.events()] == ["broker.open", "broker.end"]


async def test_event_source_of_two_topics_of_which_one_has_ended(
    page: Page, quick_broker: BrokerProcess
) -> None:
    quick_broker.publish("a", "1", end="true")
    await _on(page, quick_broker.url)
    source = await Source.follow(page, "/topics?topic=a&topic=b")
    await source.wait_for_events(3)
    quick_broker.publish("b", "goes on")
    events = await source.wait_for_events(4)
    assert [event.type for event in events] == ["broker.open", "broker.end", "broker.open", "message"]
    quick_broker.publish("b", "", end="true")
    await source.wait_for(f"source.readyState == {CLOSED}")
