"""One connection for all tabs of an origin: whichever of them closes, every tab has every event once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from tests.live.browser.following import Following
from tests.support.broker_process import BrokerProcess
from tests.support.http import JSON, NDJSON, exchange, request
from tests.support.scale import SCALE
from tests.support.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's

LEADER = """async () => {
    const {held} = await navigator.locks.query();
    const leader = held.find(({name}) => name.endsWith(":true"));
    return held.find(({name, clientId}) => name.startsWith("tab ") && clientId == leader?.clientId)?.name ?? null;
}"""

HOLD_FIRST_LOCK = """() => {
    const {request} = LockManager.prototype;
    const isLetGo = new Promise(resolve => window.letGo = resolve);
    LockManager.prototype.request = function(...all) {
        LockManager.prototype.request = request;
        return isLetGo.then(() => request.apply(this, all));
    };
}"""


class Tabs:
    """Tabs of one browser that share a connection to `broker`."""

    def __init__(self, context: BrowserContext, broker: BrokerProcess) -> None:
        self.open: dict[str, Following] = {}
        self._context = context
        self._broker = broker
        self._numbers = itertools.count()

    async def add(self, *topics: str, before: str = "", **options: Any) -> Following:
        """A further tab that follows `topics`; it runs the script `before` that."""
        page = await self._context.new_page()
        await page.goto(f"{self._broker.url}/healthz")
        name = f"tab {next(self._numbers)}"
        await page.evaluate(
            "name => { navigator.locks.request(name, () => new Promise(() => {})); }", name
        )  # says which tab it is
        if before:
            await page.evaluate(before)
        self.open[name] = await Following.open(page, *topics, shared=True, **options)
        return self.open[name]

    async def leader(self) -> str:
        """The name of the tab that has the connection."""
        found: list[str] = []

        async def ask(page: Page) -> bool:
            name = await page.evaluate(LEADER)
            if name in self.open:
                found.append(name)
            return bool(found)

        page = next(iter(self.open.values())).page
        while not await ask(page):
            pass
        return found[0]

    async def close(self, name: str) -> None:
        await self.open.pop(name).page.close()


@pytest_asyncio.fixture(loop_scope="session")
async def tabs(chromium: Browser, quick_broker: BrokerProcess) -> Tabs:
    return Tabs(await chromium.new_context(), quick_broker)


async def test_tabs_have_one_connection_whoever_leads(tabs: Tabs, quick_broker: BrokerProcess) -> None:
    many = max(4, int(20 * SCALE))
    for _ in range(many):
        await tabs.add("news", since="earliest")
    published: list[str] = []

    def publish(number: int) -> None:
        for _ in range(number):
            published.append(f"{len(published)}")
            quick_broker.publish("news", published[-1])

    for _ in range(many):
        publish(3)
        leader = await tabs.leader()
        publish(3)
        await tabs.close(leader)
        publish(3)
        await tabs.add("news", since="earliest")
    publish(1)
    for following in tabs.open.values():
        await following.wait_for_data(*published)
        assert await following.calls("gap") == []
    await until(lambda: quick_broker.metric("broker_subscribers") == 1, "one connection", WAIT_SECONDS)


async def test_tabs_with_different_topics(tabs: Tabs, quick_broker: BrokerProcess) -> None:
    quick_broker.publish("b", "b1")
    first = await tabs.add("a")
    await first.wait_until_live()
    second = await tabs.add("b", last=1)
    await second.wait_for_data("b1")
    await second.wait_until_live()
    third = await tabs.add("a", "b")
    await third.wait_until_live()
    quick_broker.publish("a", "a1")
    quick_broker.publish("b", "b2")
    await first.wait_for_data("a1")
    await second.wait_for_data("b1", "b2")
    await third.wait_for_data("a1", "b2")
    quick_broker.publish("b", "b3", end="true")
    await second.wait_for("following.state.state == 'ended'")
    assert [(end["topic"], end["reason"]) for end in await third.calls("end")] == [("b", "closed")]
    await tabs.close("tab 0")
    quick_broker.publish("a", "a2")
    await third.wait_for_data("a1", "b2", "b3", "a2")
    late = await tabs.add("b", since="earliest")
    await late.wait_for_data("b1", "b2", "b3")
    await late.wait_for("following.state.state == 'ended'")


async def test_a_leader_that_the_browser_has_frozen_is_replaced(
    tabs: Tabs, quick_broker: BrokerProcess
) -> None:
    """It keeps its lock, but answers nothing. Later it goes on as a tab like the others."""
    for _ in range(3):
        await tabs.add("news", silence=2000)
    for following in tabs.open.values():
        await following.wait_until_live()
    frozen = tabs.open.pop(await tabs.leader())
    session = await frozen.page.context.new_cdp_session(frozen.page)
    await session.send("Debugger.enable")
    await session.send("Debugger.pause")
    quick_broker.publish("news", "while it is frozen")
    for following in tabs.open.values():
        await following.wait_for_data("while it is frozen")
    await session.send("Debugger.disable")
    quick_broker.publish("news", "after")
    for following in (frozen, *tabs.open.values()):
        await following.wait_for_data("while it is frozen", "after")
    await until(lambda: quick_broker.metric("broker_subscribers") == 1, "one connection", WAIT_SECONDS)


SLOW_LOOP = """async () => {
    const {follow} = await import("/client.js");
    Object.assign(window, {delivered: 0, looped: []});
    window.following = follow("news", {shared: true, onEvent: () => delivered++});
    const gate = new Promise(resolve => window.open_gate = resolve);
    (async () => { for await (const {data} of following) { looped.push(data); await gate; } })();
}"""


async def test_a_slow_loop_lets_few_events_wait(tabs: Tabs, quick_broker: BrokerProcess) -> None:
    """I4, in a tab that doesn't lead."""
    first = await tabs.add("news")
    await first.wait_until_live()
    page = await first.page.context.new_page()
    await page.goto(f"{quick_broker.url}/healthz")
    await page.evaluate(SLOW_LOOP)
    await page.wait_for_function("following.state.state == 'live'")
    data = [f"{number}" for number in range(900)]
    for start in range(0, len(data), 100):
        lines = "".join(json.dumps({"data": text}) + "\n" for text in data[start : start + 100])
        answer = exchange(quick_broker.port, request("POST", "/topics/news", NDJSON, body=lines.encode()))
        assert answer.status == 200
        await first.wait_for_data(*data[: start + 100])
    assert 256 < await page.evaluate("delivered") < 600
    await page.evaluate("open_gate()")
    await page.wait_for_function(f"looped.length == {len(data)}")
    assert await page.evaluate("looped") == data
    quick_broker.publish("news", "and on")
    await page.wait_for_function("looped.at(-1) == 'and on'")
    assert await page.evaluate("looped") == [*data, "and on"]


async def test_a_tab_whose_topics_do_not_fit_has_a_connection_of_its_own(
    tabs: Tabs, quick_broker: BrokerProcess
) -> None:
    first = await tabs.add(*(f"a.{number}" for number in range(30)))
    await first.wait_until_live()
    second = await tabs.add(*(f"b.{number}" for number in range(3)))
    await until(lambda: quick_broker.metric("broker_subscribers") == 2, "two connections", WAIT_SECONDS)
    await second.wait_until_live()
    third = await tabs.add("a.0", "a.1")
    await third.wait_until_live()
    await second.evaluate("following.add('b.3')")
    await until(lambda: subscribers(quick_broker, "b.3") == 1, "the topic to join", WAIT_SECONDS)
    for topic in ("a.0", "b.0", "b.3"):
        quick_broker.publish(topic, topic)
    await first.wait_for_data("a.0")
    await second.wait_for_data("b.0", "b.3")
    await third.wait_for_data("a.0")
    assert quick_broker.metric("broker_subscribers") == 2
    too_many = await tabs.add(*(f"c.{number}" for number in range(33)))
    await too_many.wait_for("following.state.state == 'failed'")
    assert "32" in await too_many.evaluate("following.state.why")
    quick_broker.publish("a.1", "a.1")
    await first.wait_for_data("a.0", "a.1")


async def test_a_tab_is_heard_though_its_lock_comes_late(tabs: Tabs, quick_broker: BrokerProcess) -> None:
    """The lock shows that the tab is open. A leader that got it first, from a busy browser, would take the tab for closed."""
    quick_broker.publish("late", "1")
    first = await tabs.add("a")
    await first.wait_until_live()
    second = await tabs.add("late", since="earliest", before=HOLD_FIRST_LOCK)
    await second.wait_for_data("1")  # it has asked for its events by itself
    quick_broker.publish("a", "a1")
    await first.wait_for_data("a1")  # the leader has had time to hear of it
    await second.page.evaluate("letGo()")
    await until(lambda: subscribers(quick_broker, "late"), "the leader to follow its topic")
    quick_broker.publish("late", "2")
    await second.wait_for_data("1", "2")


async def test_a_tab_that_leaves_takes_its_topics_along(tabs: Tabs, quick_broker: BrokerProcess) -> None:
    first = await tabs.add("a")
    await first.wait_until_live()
    second = await tabs.add("b")
    await second.wait_until_live()
    await until(lambda: followed(quick_broker) == {"a", "b"}, "both topics to be followed")
    await tabs.close("tab 1")
    await until(lambda: followed(quick_broker) == {"a"}, "the topic of the closed tab to be left")


def followed(broker: BrokerProcess) -> set[str]:
    """Which of the topics a and b have a subscriber."""
    return {topic for topic in "ab" if subscribers(broker, topic)}


def subscribers(broker: BrokerProcess, topic: str) -> int:
    return int(exchange(broker.port, request("GET", f"/topics/{topic}", JSON)).json()["subscribers"])
