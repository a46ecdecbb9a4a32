"""The browser client in Chromium, against a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route

from tests.live.browser.following import Following
from tests.live.proxies import Nginx
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.tcp_proxy import Direction, TcpProxy
from tests.support.tokens import HMAC

KEPT = 1000
"""How many events of a topic the broker keeps by default."""

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's


@pytest_asyncio.fixture(loop_scope="session")
async def tab(page: Page, quick_broker: BrokerProcess) -> Page:
    """A page of the broker's origin."""
    await page.goto(f"{quick_broker.url}/healthz")
    return page


async def test_live_events(tab: Page, quick_broker: BrokerProcess) -> None:
    following = await Following.open(tab, "news", "sport")
    await following.wait_until_live()
    text = "line one\nGrüße 🎈\u2028."
    sent = quick_broker.publish("news", text, event="alert")
    quick_broker.publish("sport", "2:1")
    await following.wait_for_data(text, "2:1")
    first, _ = await following.calls("event")
    assert first.pop("time").endswith("Z")
    assert first == {"kind": "event", "topic": "news", "id": sent, "event": "alert", "data": text}
    states = [state["state"] for state in await following.calls("state")]
    assert states[-1] == "live" and "reconnecting" not in states


async def test_replay(tab: Page, quick_broker: BrokerProcess) -> None:
    for number in range(5):
        quick_broker.publish("news", f"{number}")
    everything = await Following.open(tab, "news", since="earliest")
    newest = await Following.open(tab, "news", last=2)
    await everything.wait_for_data("0", "1", "2", "3", "4")
    await newest.wait_for_data("3", "4")


async def test_for_await(tab: Page, quick_broker: BrokerProcess) -> None:
    count = 2000  # more than may wait for the loop
    lines = b"".join(b'{"data": "%d"}\n' % number for number in range(count))
    sent = request("POST", "/topics/news", "Content-Type: application/x-ndjson", body=lines)
    assert exchange(quick_broker.port, sent).json()["published"] == count
    following = await Following.open(tab, "news", since="earliest", iterate=True)
    await following.wait_for(f"iterated.length >= {KEPT}")
    quick_broker.publish("news", "last", end="true")
    await following.wait_for("calls.some(({kind}) => kind == 'iterated')")
    kept = [f"{number}" for number in range(count - KEPT, count)]
    assert await following.evaluate("iterated") == [*kept, "last"]
    assert await following.evaluate("following.state.state") == "closed"


async def test_the_end_of_a_topic(tab: Page, quick_broker: BrokerProcess) -> None:
    following = await Following.open(tab, "news", "sport")
    await following.wait_until_live()
    quick_broker.publish("news", "goodbye", end="true")
    await following.wait_for("calls.some(({kind}) => kind == 'end')")
    quick_broker.publish("sport", "more")
    await following.wait_for("calls.some(({data}) => data == 'more')")
    exchange(quick_broker.port, request("DELETE", "/topics/sport"))
    await following.wait_for("following.state.state == 'ended'")
    ends = [(end["topic"], end["reason"]) for end in await following.calls("end")]
    assert ends == [("news", "closed"), ("sport", "deleted")]


async def test_nothing_runs_on_after_the_end(tab: Page, quick_broker: BrokerProcess) -> None:
    await tab.evaluate("""() => {
        window.timers = new Set();
        const {setInterval, clearInterval} = window;
        window.setInterval = (...args) => { const timer = setInterval(...args); timers.add(timer); return timer; };
        window.clearInterval = timer => { timers.delete(timer); clearInterval(timer); };
    }""")
    following = await Following.open(tab, "news")
    await following.wait_until_live()
    assert await tab.evaluate("timers.size") == 1
    quick_broker.publish("news", "bye", end="true")
    await following.wait_for("following.state.state == 'ended' && timers.size == 0")


async def test_a_cancel(tab: Page, quick_broker: BrokerProcess) -> None:
    following = await Following.open(tab, "news")
    await following.wait_until_live()
    assert exchange(quick_broker.port, request("POST", "/topics/news/cancel", body=b"")).status == 202
    await following.wait_for("calls.some(({kind, topic}) => kind == 'cancel' && topic == 'news')")


async def test_restart_with_data(page: Page, tmp_path: Path) -> None:
    with BrokerProcess(data=tmp_path / "data", retry_min_ms=50, retry_max_ms=50) as broker:
        await page.goto(f"{broker.url}/healthz")
        following = await Following.open(page, "news")
        await following.wait_until_live()
        broker.publish("news", "before")
        await following.wait_for_data("before")
        broker.terminate()
        await following.wait_for("following.state.state == 'reconnecting'")
        broker.start()
        broker.publish("news", "after")
        await following.wait_for_data("before", "after")
        assert await following.calls("gap") == []


async def test_a_crash_brings_no_crowd_back_at_once(page: Page) -> None:
    """The delays that the broker gave its readers spread them after a crash too."""
    delay = 20_000
    with BrokerProcess(retry_min_ms=delay, retry_max_ms=delay) as broker:
        await page.goto(f"{broker.url}/healthz")
        following = await Following.open(page, "news")
        await following.wait_until_live("stream")
        broker.kill()
        await following.wait_for("following.state.state == 'reconnecting' && following.state.wait > 0")
        assert await following.evaluate("following.state.wait") >= delay


async def test_a_gap(page: Page) -> None:
    with BrokerProcess(retry_min_ms=50, retry_max_ms=50) as broker:
        await page.goto(f"{broker.url}/healthz")
        following = await Following.open(page, "news")
        await following.wait_until_live()
        broker.publish("news", "before")
        await following.wait_for_data("before")
        (seen,) = [event["id"] for event in await following.calls("event")]
        broker.kill()
        broker.start()
        broker.publish("news", "after")
        await following.wait_for_data("before", "after")
        gaps = [(gap["topic"], gap["after"], gap["reason"]) for gap in await following.calls("gap")]
        assert gaps == [("news", seen, "lost")]


async def test_gaps_of_several_topics_before_a_join(page: Page) -> None:
    with BrokerProcess(retry_min_ms=50, retry_max_ms=50) as broker:
        await page.goto(f"{broker.url}/healthz")
        following = await Following.open(page, "a", "b")
        await following.wait_until_live()
        broker.publish("a", "before")
        await following.wait_for_data("before")
        broker.kill()
        await following.wait_for("following.state.state == 'reconnecting'")
        await following.evaluate("following.add('c')")
        broker.start()
        broker.publish("a", "after")
        await following.wait_for_data("before", "after")
        gaps = {(gap["topic"], gap["reason"]) for gap in await following.calls("gap")}
        assert {("a", "lost"), ("b", "lost")} <= gaps
        assert all(gap.keys() == {"kind", "topic", "after", "reason"} for gap in await following.calls("gap"))


async def test_the_cursor_outlives_a_reload(tab: Page, quick_broker: BrokerProcess) -> None:
    following = await Following.open(tab, "news", keep="news")
    await following.wait_until_live()
    quick_broker.publish("news", "seen")
    await following.wait_for_data("seen")
    await tab.goto("about:blank")
    quick_broker.publish("news", "missed")
    await tab.goto(f"{quick_broker.url}/healthz")
    following = await Following.open(tab, "news", keep="news")
    await following.wait_for_data("missed")
    quick_broker.publish("news", "bye", end="true")
    await following.wait_for("following.state.state == 'ended'")
    await tab.reload()
    following = await Following.open(tab, "news", keep="news")
    await following.wait_for("following.state.state == 'ended'")
    assert [end["reason"] for end in await following.calls("end")] == ["closed"]


async def test_topics_join_and_leave(tab: Page, quick_broker: BrokerProcess) -> None:
    following = await Following.open(tab, "a")
    await following.wait_until_live()
    quick_broker.publish("a", "a1")
    await following.wait_for_data("a1")
    for number in (1, 2):
        quick_broker.publish("b", f"old b{number}")
        quick_broker.publish("c", f"c{number}")
    await following.evaluate("following.add('b')")  # from now on
    await following.evaluate("following.add('c', {since: 'earliest'})")
    await following.wait_for_data("a1", "c1", "c2")
    await following.wait_until_live()
    for topic in "abc":
        quick_broker.publish(topic, f"{topic} joined")
    joined = ("a joined", "b joined", "c joined")
    await following.wait_for_data("a1", "c1", "c2", *joined)
    await following.evaluate("following.remove('a')")
    quick_broker.publish("a", "unseen")
    quick_broker.publish("b", "seen")
    await following.wait_for_data("a1", "c1", "c2", *joined, "seen")
    assert await following.calls("gap") == []


@pytest.mark.parametrize(
    ("options", "first"),
    [("", ""), (", since: 'latest'", ""), (", last: 1", "a2"), (", since: '10m'", "a1 a2")],
)
async def test_a_topic_joins_before_the_first_connection(
    tab: Page, quick_broker: BrokerProcess, options: str, first: str
) -> None:
    """Each topic starts where it was asked to."""
    for topic in ("a", "b"):
        for number in (1, 2):
            quick_broker.publish(topic, f"{topic}{number}")
    await tab.evaluate(f"""async () => {{
        const {{follow}} = await import("/client.js");
        window.seen = [];
        window.following = follow("a", {{onEvent: ({{data}}) => seen.push(data){options}}});
        following.add("b", {{since: "earliest"}});
    }}""")
    await tab.wait_for_function("following.state.state == 'live'")
    quick_broker.publish("a", "a3")
    quick_broker.publish("b", "b3")
    await tab.wait_for_function("seen.includes('a3') && seen.includes('b3')")
    seen = await tab.evaluate("seen")
    assert [data for data in seen if data[0] == "a"] == [*first.split(), "a3"]
    assert [data for data in seen if data[0] == "b"] == ["b1", "b2", "b3"]


async def test_a_topic_that_is_new_since_the_cursor_was_kept_starts_where_it_was_asked_to(
    tab: Page, quick_broker: BrokerProcess
) -> None:
    """The others go on at the cursor, also those that were added with a start of their own."""
    quick_broker.publish("b", "b1")
    following = await Following.open(tab, "a", keep="page")
    await following.evaluate("following.add('b', {since: 'earliest'})")
    await following.wait_for_data("b1")
    quick_broker.publish("a", "a1")
    await following.wait_for_data("b1", "a1")
    await tab.goto("about:blank")
    quick_broker.publish("a", "a2")
    quick_broker.publish("c", "c1")
    quick_broker.publish("b", "b2")
    await tab.goto(f"{quick_broker.url}/healthz")
    following = await Following.open(tab, "a", keep="page")
    for topic in "bc":
        await following.evaluate(f"following.add('{topic}', {{since: 'earliest'}})")
    await following.wait_until_live()
    quick_broker.publish("c", "c2")
    await following.wait_for("calls.some(({data}) => data == 'c2')")
    assert sorted(await following.data()) == ["a2", "b2", "c1", "c2"]
    await following.evaluate("following.remove('b')")
    quick_broker.publish("a", "a3")
    await following.wait_for("calls.some(({data}) => data == 'a3')")
    await tab.reload()
    following = await Following.open(tab, "a", keep="page")
    await following.evaluate("following.add('b', {since: 'earliest'})")
    await following.wait_for_data("b1", "b2")


async def test_close(tab: Page, quick_broker: BrokerProcess) -> None:
    following = await Following.open(tab, "news")
    await following.wait_until_live()
    await following.evaluate("following.close()")
    await following.wait_for("following.state.state == 'closed'")
    quick_broker.empty()  # waits until no subscriber is left


# Refusals and tokens


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(page: Page) -> AsyncIterator[BrokerProcess]:
    """A broker that wants tokens."""
    with BrokerProcess(jwt_secrets=[HMAC.material], retry_min_ms=50, retry_max_ms=50) as broker:
        await page.goto(f"{broker.url}/healthz")
        yield broker


class TokenIssuer:
    """Makes tokens for a page, which live for one of `lives` each, in s.

    Attributes:
        reasons: why the page asked.
    """

    def __init__(self, *lives: float) -> None:
        self.reasons: list[str] = []
        self._lives = list(lives)

    def __call__(self, reason: str) -> str:
        self.reasons.append(reason)
        life = self._lives.pop(0) if len(self._lives) > 1 else self._lives[0]
        return HMAC.token(["**"], ["news"], exp=time.time() + life)


def publish(broker: BrokerProcess, data: str) -> None:
    token = f"Authorization: Bearer {HMAC.token(['**'])}"
    assert exchange(broker.port, request("POST", "/topics/news", token, body=data.encode())).status == 201


async def test_a_token_that_expires_is_renewed(page: Page, guarded: BrokerProcess) -> None:
    issuer = TokenIssuer(9, 3600)  # one of 10 s would be renewed before it expires
    await page.expose_function("newToken", issuer)
    following = await Following.open(page, "news", token="ask")
    await following.wait_until_live()
    publish(guarded, "one")
    await following.wait_for_data("one")
    await following.wait_for("calls.filter(({state}) => state == 'live').length == 2")
    publish(guarded, "two")
    await following.wait_for_data("one", "two")
    assert issuer.reasons == ["start", "expired"]


async def test_a_token_is_renewed_before_it_expires(page: Page, guarded: BrokerProcess) -> None:
    issuer = TokenIssuer(3600, 36_000)
    await page.expose_function("newToken", issuer)
    await page.clock.install()
    following = await Following.open(page, "news", token="ask")
    await following.wait_until_live()
    await page.clock.fast_forward(3_000_000)  # to the last fifth of the token's life
    await following.wait_for("calls.filter(({state}) => state == 'live').length == 2")
    publish(guarded, "one")
    await following.wait_for_data("one")
    assert issuer.reasons == ["start", "expiring"]


@pytest.mark.parametrize("shared", [False, True])
async def test_a_refused_token_is_replaced_once(page: Page, guarded: BrokerProcess, *, shared: bool) -> None:
    issuer = TokenIssuer(-100, 3600)
    await page.expose_function("newToken", issuer)
    following = await Following.open(page, "news", token="ask", shared=shared)
    await following.wait_until_live()
    leader = ["start"] * shared  # which has a connection, and tokens, of its own
    assert issuer.reasons == ["start", "unauthorized", *leader]
    bad = TokenIssuer(-100)
    await page.evaluate("() => { delete window.newToken; }")
    await page.expose_function("newToken2", bad)
    await page.evaluate("() => { window.newToken = window.newToken2; }")
    await following.evaluate("following.close()")
    following = await Following.open(page, "news", token="ask", shared=shared)
    await following.wait_for("following.state.state == 'failed'")
    assert bad.reasons == ["start", "unauthorized"]


async def test_a_revoked_token_is_replaced(page: Page, guarded: BrokerProcess) -> None:
    tokens = {
        "start": HMAC.token([], ["news"], jti="first"),
        "revoked": HMAC.token([], ["news"], jti="second"),
    }
    await page.expose_function("newToken", lambda reason: tokens[reason])
    following = await Following.open(page, "news", token="ask")
    await following.wait_until_live()
    admin = f"Authorization: Bearer {HMAC.token(admin=True)}"
    body = json.dumps({"jti": "first", "exp": int(time.time()) + 3600}).encode()
    answer = exchange(guarded.port, request("POST", "/admin/revoke", admin, body=body))
    assert answer.status < 300, answer
    await following.wait_for("calls.filter(({state}) => state == 'live').length == 2")
    publish(guarded, "after")
    await following.wait_for_data("after")


@pytest.mark.parametrize(("topic", "token"), [("news", ""), ("secret", HMAC.token([], ["news"]))])
async def test_a_refusal_for_good(page: Page, guarded: BrokerProcess, topic: str, token: str) -> None:
    following = await Following.open(page, topic, token=token)
    await following.wait_for("following.state.state == 'failed'")
    assert await following.evaluate("following.state.why")


async def test_a_full_broker_is_asked_again(page: Page) -> None:
    with BrokerProcess(max_connections=1, retry_min_ms=50, retry_max_ms=50) as broker:
        await page.goto(f"{broker.url}/healthz")
        first = await Following.open(page, "news")
        await first.wait_until_live()
        second = await Following.open(page, "news")
        await second.wait_for("following.state.state == 'reconnecting'")
        assert await second.evaluate("following.state.wait") > 0
        assert await second.calls("end") == []


async def test_refusals_that_pass(tab: Page, quick_broker: BrokerProcess) -> None:
    """Answers that end an EventSource for good."""
    statuses = [503, 429, 502]

    async def refuse(route: Route) -> None:
        if statuses:
            await route.fulfill(status=statuses.pop(0), headers={"Retry-After": "1"}, body="")
        else:
            await route.continue_()

    await tab.route("**/topics?*", refuse)
    following = await Following.open(tab, "news")
    await following.wait_until_live()
    waits = [state["wait"] for state in await following.calls("state") if state["wait"]]
    assert len(waits) == 3 and min(waits) >= 1000


@pytest.mark.parametrize("shared", [False, True])
async def test_a_refused_join_waits_as_long_as_the_broker_asks(
    tab: Page, quick_broker: BrokerProcess, shared: bool
) -> None:
    following = await Following.open(tab, "a", shared=shared)
    await following.wait_until_live()
    quick_broker.publish("b", "b1")
    left = [503, 429, 503]

    async def refuse(route: Route) -> None:
        if "topic=b" in route.request.url and left:
            await route.fulfill(status=left.pop(), headers={"Retry-After": "2"}, json={"detail": "later"})
        else:
            await route.continue_()

    await tab.route("**/events?*", refuse)
    await following.evaluate("following.add('b', {since: 'earliest'})")
    await following.wait_for_data("b1")
    assert left == []
    waits = [state for state in await following.calls("state") if state["wait"]]
    assert [state["why"] for state in waits] == ["later"] * 3
    assert all(2000 <= state["wait"] <= 2500 for state in waits)


async def test_below_a_base_path(page: Page) -> None:
    with BrokerProcess(base_path="/events") as broker:
        await page.goto(f"{broker.url}/healthz")
        following = await Following.open(page, "news", module="/events/client.js")
        await following.wait_until_live()


# Bad networks


async def test_a_dead_network_is_noticed(page: Page, quick_broker: BrokerProcess) -> None:
    async with TcpProxy(quick_broker.port) as proxy:
        await page.goto(f"{quick_broker.url}/healthz")
        await page.goto(f"{proxy.url}/healthz")
        following = await Following.open(page, "news", silence=2000)
        await following.wait_until_live()
        proxy.swallow = True
        quick_broker.publish("news", "swallowed")
        await following.wait_for("following.state.state == 'reconnecting'")
        proxy.swallow = False
        await following.wait_for_data("swallowed")


async def test_a_cut_connection(page: Page, quick_broker: BrokerProcess) -> None:
    async with TcpProxy(quick_broker.port) as proxy:
        await page.goto(f"{proxy.url}/healthz")
        following = await Following.open(page, "news")
        await following.wait_until_live()
        expected = []
        for number in range(5):
            proxy.cut()
            expected.append(f"{number}")
            quick_broker.publish("news", f"{number}")
            await following.wait_for_data(*expected)


async def test_offline_and_online(page: Page, quick_broker: BrokerProcess) -> None:
    async with TcpProxy(quick_broker.port) as proxy:
        await page.goto(f"{proxy.url}/healthz")
        following = await Following.open(page, "news")
        await following.wait_until_live()
        await page.context.set_offline(True)
        proxy.cut()
        await following.wait_for("following.state.state == 'reconnecting'")
        quick_broker.publish("news", "missed")
        await page.context.set_offline(False)
        await following.wait_for_data("missed")


COMPRESSES = {
    "proxy_buffering off;": "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;",
    "gzip off;": "gzip on; gzip_types text/event-stream application/json; gzip_proxied any;",
}


class HoldingProxy(TcpProxy):
    """Passes an event stream on only when it has ended, as some companies' proxies and virus scanners do."""

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        held = b""
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if direction == "down" and (held or b"Content-Type: text/event-stream" in data):
                    held += data
                    continue
                target.write(data)
                await target.drain()
            target.write(held)
            await target.drain()


async def test_a_proxy_that_compresses(
    page: Page, proxies: object, broker: BrokerProcess, tmp_path: Path
) -> None:
    with Nginx([broker.url], tmp_path, changes=COMPRESSES) as nginx:
        await follow_where_streams_are_held_back(page, nginx.url, broker)


async def test_a_proxy_that_waits_for_the_end(page: Page, broker: BrokerProcess) -> None:
    async with HoldingProxy(broker.port) as proxy:
        await follow_where_streams_are_held_back(page, proxy.url, broker)


async def follow_where_streams_are_held_back(page: Page, url: str, broker: BrokerProcess) -> None:
    await page.goto(f"{url}/healthz")
    following = await Following.open(page, "news", "sport")
    await following.wait_for("following.state.state == 'connecting'")
    broker.publish("news", "while it looks for a way")
    await following.wait_until_live("polling")
    broker.publish("news", "one")
    broker.publish("sport", "two")
    await following.wait_for_data("while it looks for a way", "one", "two")
    broker.publish("news", "bye", end="true")
    broker.publish("sport", "bye", end="true")
    await following.wait_for("following.state.state == 'ended'")
    ends = {end["topic"]: end["reason"] for end in await following.calls("end")}
    assert ends == {"news": "closed", "sport": "closed"}


async def test_cross_origin(chromium: Browser, page: Page) -> None:
    with BrokerProcess() as other:
        await page.goto(f"{other.url}/healthz")
        with BrokerProcess(cors_origins=other.url) as broker:
            following = await Following.open(page, "news", module=f"{broker.url}/client.js")
            await following.wait_until_live()
            broker.publish("news", "hello")
            await following.wait_for_data("hello")
