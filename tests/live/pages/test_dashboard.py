"""The dashboard in a real Chromium: figures, charts, topics and the buttons for them; a restart, a token, a broker without charts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from broker.client import BlockingClient
from tests.live.conftest import leave_out
from tests.live.pages.conftest import StartBroker
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import exchange, request
from tests.support.redis_servers import Server, redis
from tests.support.scale import scaled
from tests.support.silent_streams import make_topics, silent_streams
from tests.support.tokens import HMAC
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
PICTURES = Path(__file__).parents[3] / ".cache" / "pictures"
BEYOND = """[...document.querySelectorAll('body *')]
    .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 200))"""
SCROLLS_BY_ITSELF = """[...document.querySelectorAll('body *')]
    .filter((one) => one.scrollHeight > one.clientHeight + 1 && /auto|scroll/.test(getComputedStyle(one).overflowY)).map((one) => one.outerHTML.slice(0, 200))"""


@pytest.fixture
def data_server(tmp_path: Path) -> Iterator[Server]:
    """A store of which a restart loses nothing."""
    program = redis()
    if program is None:
        leave_out("redis-server", "apt-get install redis-server")
    with Server(tmp_path / "redis", str(program), "appendonly yes") as server:
        yield server


def tile(page: Page, label: str) -> str:
    """The selector of a figure of now."""
    return f'.tile:has(.label:text-is("{label}")) .value'


async def open_dashboard(page: Page, url: str) -> None:
    await page.goto(f"{url}/")
    await expect(page.locator('#state[data-state="live"]')).to_be_visible()
    await expect(page.locator("#instance-rows tr")).to_have_count(1)


async def test_it_shows_what_happens_now(page: Page, broker: BrokerProcess) -> None:
    await open_dashboard(page, broker.url)
    await expect(page.locator(tile(page, "Streams"))).to_have_text("1")
    with Stream(broker.port, "/topics/news"), Stream(broker.port, "/topics/news"):
        await expect(page.locator(tile(page, "Streams"))).to_have_text("3")
        while await page.locator(tile(page, "Publishes")).text_content() == "0":
            broker.publish("news", "1")  # again and again: a rate is over the last five seconds
            await asyncio.sleep(0.5)
    await expect(page.locator(tile(page, "Streams"))).to_have_text("1")
    await expect(page.locator("#closes .label", has_text="client")).to_be_visible()
    row = page.locator("#instance-rows tr")
    await expect(row.locator("td").first).to_have_text("ready")
    await expect(row).to_contain_text("memory")


async def test_its_charts_are_drawn_and_said_in_words(page: Page, broker: BrokerProcess) -> None:
    await open_dashboard(page, broker.url)
    await expect(page.locator("#charts canvas")).to_have_count(6)
    await expect(page.locator("#no-charts")).to_be_hidden()
    streams = page.locator(".chart", has=page.locator('.title:text-is("Streams")')).locator("[role=img]")
    await expect(streams).to_have_attribute("aria-label", re.compile(r"open: \d+ now, at most \d+"))


async def test_without_the_charts_library_it_says_so_and_shows_figures(
    page: Page, broker: BrokerProcess, complaints: list[str]
) -> None:
    await page.route("**/uPlot.js", lambda route: route.fulfill(status=404))
    await open_dashboard(page, broker.url)
    await expect(page.locator("#no-charts")).to_be_visible()
    await expect(page.locator(tile(page, "Streams"))).to_have_text("1")
    assert [said for said in complaints if "404" not in said] == []
    complaints.clear()


async def test_it_survives_a_restart_of_the_broker(
    page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    broker = start_broker(retry_min_ms=50, retry_max_ms=50)
    await open_dashboard(page, broker.url)
    with Stream(broker.port, "/topics/news"):
        await expect(page.locator(tile(page, "Streams"))).to_have_text("2")
    before = await page.locator("#instance-rows th").text_content()
    broker.kill()
    await expect(page.locator('#state[data-state="reconnecting"]')).to_be_visible()
    await expect(page.locator("#problem-text")).to_have_text("The broker can't be reached.")
    await expect(page.locator("#instance-rows td").first).to_have_text("unknown")
    broker.start()
    await expect(page.locator('#state[data-state="live"]')).to_be_visible()
    await expect(page.locator("#instance-rows")).not_to_contain_text(before or "")
    await expect(page.locator("#instance-rows tr")).to_have_count(1)
    await expect(page.locator("#problem")).to_be_hidden()
    await page.close()
    complaints.clear()  # about the broker that was away


async def test_while_the_store_is_down_it_says_so_and_its_buttons_claim_nothing(
    data_server: Server, page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    timeouts = {"CALL_SECONDS": 1, "REPLY_TIMEOUT_SECONDS": 1, "CONNECT_SECONDS": 1, "WATCH_SECONDS": 1}
    broker = start_broker(redis_url=data_server.url, timeouts=timeouts)
    published = request("POST", "/topics/news", "Idempotency-Key: k", body=b"1")
    wait_for(lambda: exchange(broker.port, published).status == 201, "a machine that stalls has it refused")
    await open_dashboard(page, broker.url)
    state = page.locator("#instance-rows td").first
    await expect(state).to_have_text("ready")
    await expect(page.locator("#topic-rows a")).to_have_text(["news"])

    data_server.stop()
    problem = page.locator("#problem-text")
    await expect(problem).to_contain_text(
        re.compile(r"^No figures for \d+ s, so those below are old\. The store: ")
    )
    await expect(state).to_have_text("unknown")
    await expect(page.locator("#state-name")).to_have_text("No figures")
    await expect(page.locator("#topics-error")).to_contain_text("Refused (503).")
    await take_picture(page, "dashboard-without-store")
    await open_topic(page, "news")
    await expect(page.locator("#topic-problem")).to_contain_text("Refused (503).")
    for button, title in (
        ("#topic-end", "End"),
        ("#topic-delete", "Delete"),
        ("#topic-disconnect", "Disconnect"),
    ):
        await page.click(button)
        await agree(page, title)
        await expect(page.locator("#topic-result.error")).to_contain_text("Refused (503).")
        await page.evaluate("document.getElementById('topic-result').textContent = ''")
    await take_picture(page, "topic-without-store")

    data_server.start()
    await expect(page.locator("#topic-problem")).to_be_empty()
    await expect(page.locator("#topic-events .data")).to_have_text(["1"])
    await expect(page.locator("#topic-facts")).to_contain_text("open")
    await page.get_by_role("link", name="All topics").click()
    await expect(page.locator("#problem")).to_be_hidden()
    await expect(page.locator("#state-name")).to_have_text("Live")
    await expect(state).to_have_text("ready")
    await expect(page.locator("#topics-error")).to_be_empty()
    await page.close()
    assert [said for said in complaints if "503" not in said] == []
    complaints.clear()


async def test_a_token_without_the_right_is_refused_in_plain_words(
    page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    broker = start_broker(jwt_secrets=[HMAC.material])
    await page.goto(f"{broker.url}/")
    form = page.locator("#token-form")
    await expect(form).to_be_visible()
    await expect(form).to_contain_text("needs the right admin")
    await expect(page.locator("#state-name")).to_have_text("Token needed")
    await page.fill("#token", HMAC.token(["**"], ["**"]))
    await page.press("#token", "Enter")
    await expect(page.locator("#token-hint")).to_contain_text("does not have that right")
    await expect(page.locator("#state-name")).to_have_text("Token needed")
    await page.fill("#token", HMAC.token((), (), admin=True))
    await page.press("#token", "Enter")
    await expect(form).to_be_hidden()
    await expect(page.locator("#state-name")).to_have_text("Live")
    await expect(page.locator(tile(page, "Streams"))).to_have_text("1")
    assert "access_token" not in page.url
    await page.close()
    complaints.clear()  # about the refusals


async def test_topics_are_sorted_and_searched(page: Page, broker: BrokerProcess) -> None:
    for topic in ("news", "orders.eu", "orders.us"):
        broker.publish(topic, "1")
    with Stream(broker.port, "/topics/orders.us"):
        await open_dashboard(page, broker.url)
        names = page.locator("#topic-rows a")
        await expect(names).to_have_text(["orders.us", "news", "orders.eu"])
        await expect(page.locator("#topics-count")).to_have_text("3")
        await page.get_by_role("button", name="Topic", exact=True).click()
        await expect(names).to_have_text(["news", "orders.eu", "orders.us"])
        await expect(page.locator("th[aria-sort=ascending]")).to_have_text("Topic")
        await page.fill("#search", "orders")
        await expect(names).to_have_text(["orders.eu", "orders.us"])
        await expect(page.locator("#topics-count")).to_have_text("2 of 3")
        await page.fill("#search", "<b>nothing")
        await expect(page.locator("#topics-none")).to_have_text("No topic has “<b>nothing” in its name.")


async def open_topic(page: Page, topic: str) -> None:
    await page.locator("#topic-rows").get_by_role("link", name=topic, exact=True).click()
    await expect(page.locator("#topic-title")).to_have_text(topic)


async def test_a_topic_shows_who_reads_it_and_what_it_keeps(page: Page, broker: BrokerProcess) -> None:
    broker.publish("news", "<img src=x onerror=alert(1)>", event="headline")
    with Stream(broker.port, "/topics/news"):
        await open_dashboard(page, broker.url)
        await open_topic(page, "news")
        await expect(page.locator("#topic-title")).to_be_focused()
        await expect(page.locator("#now")).to_be_hidden()
        row = page.locator("#subscriber-rows tr")
        await expect(row.locator("th")).to_have_text("127.0.0.1")
        await expect(page.locator("#topic-facts")).to_contain_text("1,000 events, 1 MB, 1 h")
        event = page.locator("#topic-events li")
        await expect(event.locator(".data")).to_have_text("<img src=x onerror=alert(1)>")
        await expect(event.locator(".type")).to_have_text("headline")
        await page.reload()
        await expect(page.locator("#topic-title")).to_have_text("news")
        await page.get_by_role("link", name="All topics").click()
        await expect(page.locator("#now")).to_be_visible()
        await expect(page.locator("#topic")).to_be_hidden()


async def agree(page: Page, button: str) -> None:
    """Answer the open question by keyboard: it begins at Cancel."""
    await expect(page.locator("#confirm-no")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.locator("#confirm-yes")).to_have_text(button)
    await page.keyboard.press("Enter")
    await expect(page.locator("#confirm")).to_be_hidden()


async def test_a_topic_is_disconnected_ended_and_deleted_only_after_a_question(
    page: Page, broker: BrokerProcess
) -> None:
    broker.publish("news", "1")
    with Stream(broker.port, "/topics/news") as stream:
        await open_dashboard(page, broker.url)
        await open_topic(page, "news")
        await page.click("#topic-disconnect")
        await page.keyboard.press("Escape")
        await expect(page.locator("#confirm")).to_be_hidden()
        await expect(page.locator("#subscriber-rows tr")).to_have_count(1)
        await page.click("#topic-disconnect")
        await agree(page, "Disconnect")
        await expect(page.locator("#topic-result")).to_have_text("They are being disconnected.")
        await expect(page.locator("#subscriber-rows tr")).to_have_count(0)
        while stream.read():
            pass
        assert stream.is_complete
    await page.click("#topic-end")
    await agree(page, "End")
    await expect(page.locator("#topic-result")).to_have_text("news has ended.")
    await expect(page.locator("#topic-end")).to_be_disabled()
    await page.click("#topic-delete")
    await agree(page, "Delete")
    await expect(page.locator("#topic-events")).to_have_text("It keeps no events.")
    await expect(page.locator("#topic-end")).to_be_enabled()


@pytest.mark.parametrize("button", ["#topic-end", "#topic-delete"])
async def test_a_question_is_about_the_topic_that_it_names(
    page: Page, broker: BrokerProcess, button: str
) -> None:
    """Back, while it is open, shows another topic behind it."""
    for topic in ("a", "b"):
        broker.publish(topic, "1")
    await open_dashboard(page, broker.url)
    await open_topic(page, "b")
    await page.goto(f"{broker.url}/#topic=a")
    await expect(page.locator("#topic-title")).to_have_text("a")
    await page.click(button)
    await page.go_back()
    await expect(page.locator("#topic-title")).to_have_text("b")
    await expect(page.locator("#confirm")).to_be_hidden()
    await page.evaluate("document.getElementById('confirm-yes').click()")
    await expect(page.locator("#topic-result")).not_to_have_text("")
    with BlockingClient(broker.url) as client:
        history = await asyncio.to_thread(client.history, "b")
    assert ([event.data for event in history.events], history.closed) == (["1"], False)


async def test_one_subject_is_disconnected(page: Page, start_broker: StartBroker) -> None:
    broker = start_broker(jwt_secrets=[HMAC.material])
    streams = [
        Stream(
            broker.port,
            "/topics/news",
            {
                "Accept": "text/event-stream",
                "Authorization": f"Bearer {HMAC.token((), ['**'], sub=subject)}",
            },
        ).opened()
        for subject in ("ann", "bob")
    ]
    token = HMAC.token(["**"], ["**"], admin=True)
    await page.add_init_script(
        f"location.protocol === 'http:' && sessionStorage.setItem('broker token', '{token}')"
    )
    await page.goto(f"{broker.url}/#topic=news")
    await page.get_by_role("button", name="Disconnect ann").click()
    await expect(page.locator("#confirm-title")).to_have_text("Disconnect all streams of ann?")
    await agree(page, "Disconnect")
    await expect(page.locator("#subscriber-rows td:nth-child(2)")).to_have_text(["bob"])
    for stream in streams:
        stream.socket.close()


async def test_keyboard_reaches_everything_in_order(page: Page, broker: BrokerProcess) -> None:
    broker.publish("news", "1")
    await open_dashboard(page, broker.url)
    await expect(page.locator("#topic-rows a", has_text="news")).to_be_visible()
    reached = []
    for _ in range(20):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    wanted = ["Dashboard", "Topics", "search", "Topic", "Subscribers", "Events/s", "Bytes/s", "news"]
    assert [one for one in reached if one in wanted][: len(wanted)] == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_meets_wcag_aa(
    chromium: Browser, broker: BrokerProcess, node_modules: Path, scheme: str
) -> None:
    """By axe-core: contrast, names, roles, structure; of the dashboard, a topic, a question, and the form for a token."""
    context = await chromium.new_context(
        color_scheme="dark" if scheme == "dark" else "light", bypass_csp=True
    )
    page = await context.new_page()
    broker.publish("news", "1", event="headline")
    with Stream(broker.port, "/topics/news"):
        await open_dashboard(page, broker.url)
        await page.add_script_tag(path=node_modules / "axe-core" / "axe.min.js")
        await expect(page.locator("#topic-rows a", has_text="news")).to_be_visible()
        await check_accessibility(page)
        await page.set_viewport_size({"width": 390, "height": 844})
        await check_accessibility(page)
        await open_topic(page, "news")
        await expect(page.locator("#topic-events .data")).to_have_count(1)
        await check_accessibility(page)
        await page.click("#topic-delete")
        await check_accessibility(page)
        await page.evaluate("document.getElementById('confirm').close()")
        await page.evaluate("document.getElementById('token-form').hidden = false")
        await page.evaluate("document.getElementById('problem').hidden = false")
        await page.evaluate("document.getElementById('problem-text').textContent = 'No figures for 7 s.'")
        await check_accessibility(page)
    await context.close()


async def check_accessibility(page: Page) -> None:
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = await page.evaluate("tags => axe.run({runOnly: tags})", tags)
    wrong = [
        (rule["id"], [node["html"] + " " + node["failureSummary"] for node in rule["nodes"]])
        for rule in found["violations"]
    ]
    assert wrong == []
    assert {rule["id"] for rule in found["passes"]} >= {"color-contrast", "button-name"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_picture(chromium: Browser, broker: BrokerProcess, width: int, scheme: str) -> None:
    """Makes the pictures that a person looks at; on a phone nothing scrolls sideways."""
    context = await chromium.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = await context.new_page()
    for topic in ("news", "t" * 200, "orders.eu"):
        broker.publish(topic, "d" * 2000)
    with Stream(broker.port, "/topics/news"), Stream(broker.port, "/topics/orders.eu"):
        await open_dashboard(page, broker.url)
        await expect(page.locator("#charts canvas")).to_have_count(6)
        await expect(page.locator("#topic-rows a", has_text="t" * 200)).to_be_visible()
        await take_picture(page, f"dashboard-{width}-{scheme}")
        await open_topic(page, "t" * 200)
        await expect(page.locator("#topic-events .data")).to_have_count(1)
        await take_picture(page, f"topic-{width}-{scheme}")
    await context.close()


async def take_picture(page: Page, name: str) -> None:
    """Keep a picture; nothing on it is cut off, and nothing but the page scrolls, so that no part is a trap."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.evaluate(BEYOND) == []
    assert await page.evaluate(SCROLLS_BY_ITSELF) == []


async def test_behind_a_large_broker_it_stays_quick_and_survives_its_restart(
    page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    """10,000 streams and 100,000 topics with TEST_SCALE=1."""
    topics = [f"topic.{number}" for number in range(scaled(100_000))]
    streams = [topics[number % 100] for number in range(scaled(10_000))]
    broker = start_broker(max_topics=200_000, log_memory_bytes=1 << 30, retry_min_ms=50, retry_max_ms=50)
    make_topics(broker, topics)
    with silent_streams(broker, streams):
        await open_dashboard(page, broker.url)
        await expect(page.locator(tile(page, "Streams"))).to_have_text(f"{len(streams) + 1:,}")
        await expect(page.locator("#topics-count")).to_have_text(f"{len(topics):,}")
        await expect(page.locator("#topic-rows tr")).to_have_count(25)
        await page.fill("#search", f".{len(topics) - 1}")
        await expect(page.locator("#topic-rows a")).to_have_text([topics[-1]])
        await page.fill("#search", "")
        await open_topic(page, "topic.0")
        await expect(page.locator("#subscribers-more")).to_be_attached()
        await page.go_back()
        await take_picture(page, "dashboard-large")
        broker.kill()
        await expect(page.locator('#state[data-state="reconnecting"]')).to_be_visible()
        broker.start()
        await expect(page.locator('#state[data-state="live"]')).to_be_visible()
        await expect(page.locator(tile(page, "Streams"))).to_have_text("1")
        await expect(page.locator("#topics-none")).to_be_visible()
        await page.close()
    complaints.clear()  # about the broker that was away
