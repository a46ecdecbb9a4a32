"""The web page in a real Chromium: publishing, watching, and what must never happen."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import datetime

import pytest
from aiohttp import ClientSession, web
from playwright.async_api import BrowserContext, Page, Request, expect

from broker.client.blocking import client as blocking
from tests.live.pages.conftest import StartBroker
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
HOSTILE = '<img src="/page/ran" onerror="window.ran = true"><script>window.ran = true</script>'


async def publish(page: Page, url: str, data: str, content_type: str = "text/plain") -> None:
    answer = await page.request.post(url, data=data, headers={"Content-Type": content_type})
    assert answer.ok, await answer.text()


async def expect_state(page: Page, state: str) -> None:
    await expect(page.locator(f'#state[data-state="{state}"]')).to_be_visible()


async def open_live(page: Page, url: str) -> None:
    await page.goto(url)
    await expect_state(page, "live")


async def test_event_published_from_the_page_appears_as_a_row(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    await expect(page.locator("#state-name")).to_have_text("Live")
    await page.fill("#publish-type", "headline")
    await page.fill("#publish-data", "first line\nsecond line")
    await page.click("#publish-button")

    row = page.locator("#rows .event")
    await expect(row).to_have_count(1)
    await expect(row.locator(".topic")).to_have_text("news")
    await expect(row.locator(".type")).to_have_text("headline")
    await expect(row.locator(".data")).to_contain_text("second line")
    given = await row.locator(".id").text_content()
    await expect(page.locator("#publish-result")).to_have_text(f"Published to news as {given}.")
    await expect(page.locator("#cursor")).to_have_text(given or "")


async def test_the_cursor_of_a_silent_topic_is_shown(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/silent")
    await expect(page.locator("#cursor")).to_have_text(re.compile(r"\d+-\d+"))


async def test_control_and_enter_publishes(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    await page.fill("#publish-data", "typed")
    await page.press("#publish-data", "Control+Enter")
    await expect(page.locator("#rows .event .data")).to_have_text("typed")


async def test_refused_event_is_answered_with_what_to_do(
    page: Page, broker_url: str, complaints: list[str]
) -> None:
    await page.goto(f"{broker_url}/topics")
    await page.fill("#publish-topic", "_stats")
    await page.click("#publish-button")
    await expect(page.locator("#publish-result.error")).to_have_text(re.compile(r"Refused \(403\)\. \S+"))

    await page.fill("#publish-topic", "no..topic")
    await page.click("#publish-button")
    await expect(page.locator("#publish-result.error")).to_contain_text("A topic has")
    assert [said for said in complaints if "403" not in said] == []
    complaints.clear()


async def test_markup_in_data_and_type_is_only_text(
    page: Page, broker_url: str, complaints: list[str]
) -> None:
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    await open_live(page, f"{broker_url}/topics/news")
    await page.fill("#publish-type", HOSTILE[:95])
    await page.fill("#publish-data", HOSTILE)
    await page.click("#publish-button")

    row = page.locator("#rows .event")
    await expect(row.locator(".data")).to_have_text(HOSTILE)
    await expect(row.locator(".type")).to_have_text(HOSTILE[:95])
    await row.locator("summary").click()
    await expect(row.locator("pre")).to_have_text(HOSTILE)
    await expect(page.locator("#rows img, #rows script")).to_have_count(0)
    assert await page.evaluate("window.ran") is None
    assert not [url for url in loaded if url.endswith("/page/ran")]
    assert complaints == []


async def test_page_comes_with_a_policy_that_allows_no_inline_script(page: Page, broker_url: str) -> None:
    for path in ("/topics", "/topics/news"):
        answer = await page.goto(broker_url + path)
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        await expect(page.locator("#received")).to_have_text("0 events")  # the script has run


async def test_two_topics_share_one_connection(page: Page, broker_url: str) -> None:
    streams: list[str] = []

    def note_stream(request: Request) -> None:
        if "/topics?topic=" in request.url:
            streams.append(request.url)

    page.on("request", note_stream)
    await open_live(page, f"{broker_url}/topics/orders.eu#topic=orders.us")
    await expect(page.locator("#watched li")).to_have_count(2)
    await publish(page, f"{broker_url}/topics/orders.us", "from us")
    await publish(page, f"{broker_url}/topics/orders.eu", "from eu")

    await expect(page.locator("#rows .event .data")).to_have_text(["from eu", "from us"])
    assert len(streams) == 1
    assert "topic=orders.eu&topic=orders.us" in streams[0]


async def test_topic_added_while_watching_goes_on_from_the_cursor(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/a")
    await publish(page, f"{broker_url}/topics/a", "a1")
    await expect(page.locator("#rows .event")).to_have_count(1)
    await publish(
        page, f"{broker_url}/topics/b", "b1"
    )  # b has no viewer yet, but this event lies behind the cursor

    await page.fill("#watch-topics", "b")
    await page.press("#watch-topics", "Enter")
    await expect(page.locator("#rows .event .data")).to_have_text(["b1", "a1"])
    await publish(page, f"{broker_url}/topics/a", "a2")
    await expect(page.locator("#rows .event .data")).to_have_text(["a2", "b1", "a1"])
    await expect(page.locator("#rows .gap")).to_have_count(0)


async def test_gap_is_a_row_that_says_what_was_lost(page: Page, broker_url: str) -> None:
    await publish(page, f"{broker_url}/topics/news", "kept")
    await open_live(page, f"{broker_url}/topics/news#lastEventId=no+such+id!")

    await expect(page.locator("#rows .gap .title")).to_have_text("Gap in news")
    await expect(page.locator("#rows .gap .words")).to_contain_text("no such id!")
    await expect(page.locator("#gaps")).to_have_text("1 gap")
    await expect(page.locator("#rows .event .data")).to_have_text("kept")


async def test_the_newest_kept_events_are_there_at_once_and_older_ones_at_a_click(
    page: Page, broker_url: str
) -> None:
    lines = "".join(json.dumps({"data": f"n{n}"}) + "\n" for n in range(120))
    await publish(page, f"{broker_url}/topics/news", lines, "application/x-ndjson")
    await open_live(page, f"{broker_url}/topics/news")
    rows, older = page.locator("#rows .event .data"), page.locator("#older")
    await expect(rows).to_have_text([f"n{n}" for n in reversed(range(70, 120))])
    await older.click()
    await expect(rows).to_have_count(100)
    await publish(page, f"{broker_url}/topics/news", "n120")
    await expect(rows).to_have_count(101)
    await older.click()
    await expect(rows).to_have_text([f"n{n}" for n in reversed(range(121))])
    await expect(older).to_be_hidden()
    await expect(page.locator("#received")).to_have_text("121 events")
    await expect(page.locator("#rows .gap")).to_have_count(0)


async def test_older_events_are_loaded_up_to_a_bound(page: Page, start_broker: StartBroker) -> None:
    broker = start_broker(retention_events=10_000, retention_bytes=10_000_000)
    lines = "".join(json.dumps({"data": f"n{n}"}) + "\n" for n in range(6000))
    await publish(page, f"{broker.url}/topics/news", lines, "application/x-ndjson")
    await open_live(page, f"{broker.url}/topics/news")
    await expect(page.locator("#older")).to_be_visible()
    await page.evaluate("""async () => {
        const older = document.getElementById("older");
        while (!older.hidden) {
            if (!older.disabled) older.click();
            await new Promise(requestAnimationFrame);
        }
    }""")
    await expect(page.locator("#rows > li")).to_have_count(5000)


async def test_a_closed_topic_is_shown_from_its_start_with_how_it_ended(page: Page, broker_url: str) -> None:
    lines = "".join(json.dumps({"data": f"n{n}"}) + "\n" for n in range(80))
    await publish(page, f"{broker_url}/topics/answer", lines, "application/x-ndjson")
    await publish(page, f"{broker_url}/topics/answer?end=true&reason=failed", "last")
    await page.goto(f"{broker_url}/topics/answer")
    await expect_state(page, "ended")
    await expect(page.locator("#rows .event .data")).to_have_text(
        ["last", *(f"n{n}" for n in reversed(range(80)))]
    )
    await expect(page.locator("#rows .end")).to_contain_text("Its publisher failed")
    await expect(page.locator("#watched .ended")).to_have_text("failed")
    await expect(page.locator("#older")).to_be_hidden()


async def test_types_have_colours_and_can_be_chosen(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    for kind in ("paid", "created", "paid"):
        await publish(page, f"{broker_url}/topics/news?event={kind}", kind)
    await publish(page, f"{broker_url}/topics/news?end=true", "")
    choice = page.locator("#types button", has_text="paid")
    await expect(choice).to_have_text(re.compile(r"paid\s+2"))
    await choice.click()
    await expect(page.locator("#rows .event:visible .data")).to_have_text(["paid", "paid"])
    await expect(page.locator("#rows .end")).to_be_visible()
    colours = await page.locator("#rows .type").evaluate_all(
        "slots => slots.map(slot => getComputedStyle(slot).color)"
    )
    assert colours[0] == colours[2] != colours[1]
    await choice.click()
    await expect(page.locator("#rows .event:visible")).to_have_count(3)


async def test_escaped_letters_are_shown_as_letters_and_nothing_else_is(page: Page, broker_url: str) -> None:
    sent = r'{"a":"\u00fc \ud83c\udf88 \\u00fc","b":"\u202e\u0000\u0022\ud83c"}'
    shown = r'{"a":"ü 🎈 \\u00fc","b":"\u202e\u0000\u0022\ud83c"}'
    await publish(page, f"{broker_url}/topics/news", sent)
    await publish(page, f"{broker_url}/topics/news", r"no JSON: \u00fc")
    await open_live(page, f"{broker_url}/topics/news")
    rows = page.locator("#rows .event")
    await expect(rows.locator(".data")).to_have_text([r"no JSON: \u00fc", shown])
    await rows.nth(1).locator("summary").click()
    await expect(rows.nth(1).locator("pre")).to_contain_text(r'"a": "ü 🎈 \\u00fc"')
    await rows.nth(1).get_by_role("button", name="As sent").click()
    assert await rows.nth(1).locator("pre").text_content() == sent


async def test_a_gap_has_the_time_of_the_broker_and_a_link(page: Page, broker_url: str) -> None:
    await page.clock.set_fixed_time("2001-01-01T00:00:00Z")  # the clock of this computer is wrong
    await publish(page, f"{broker_url}/topics/news", "kept")
    await page.goto(f"{broker_url}/topics/news#lastEventId=no+such+id!")
    gap = page.locator("#rows .gap")
    stamp = await gap.locator("time").get_attribute("datetime")
    assert stamp and abs(datetime.fromisoformat(stamp).timestamp() - time.time()) < WAIT_SECONDS
    link = await gap.locator("a").get_attribute("href")
    await page.goto("about:blank")
    await page.goto(f"{broker_url}{link}")
    await expect(gap.locator(".words")).to_contain_text("no such id!")


async def test_a_lost_broker_is_counted_up_and_comes_back_once(
    page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    broker = start_broker(retry_min_ms=100, retry_max_ms=200)
    await open_live(page, f"{broker.url}/topics/news")
    broker.kill()
    await expect_state(page, "reconnecting")
    detail = page.locator("#state-detail")
    await expect(detail).to_have_text(re.compile(r"for \d+ s, [3-9] attempts failed, "))
    await expect(page.locator("#problem-text")).to_have_text("The broker can't be reached.")
    await expect(page.locator("#rows .title")).to_have_count(0)
    broker.start()
    await expect_state(page, "live")
    await expect(page.locator("#rows .title")).to_have_text(["Gap in news", "Reconnected"])
    await page.close()
    complaints.clear()


async def test_while_it_is_refused_it_never_says_that_it_is_connected(
    context: BrowserContext, page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    broker = start_broker(max_connections=1)
    other = await context.new_page()
    await open_live(other, f"{broker.url}/topics/news")
    await page.goto(f"{broker.url}/topics/news")
    await expect(page.locator("#state-detail")).to_have_text(re.compile("1 attempt failed, next in "))
    await expect_state(page, "reconnecting")
    await expect(page.locator("#rows > li")).to_have_count(0)
    await other.close()
    await page.close()
    complaints.clear()


async def test_the_list_of_topics_is_searched_and_sorted_and_has_its_real_total(
    page: Page, start_broker: StartBroker
) -> None:
    broker = start_broker()
    for number in range(205):
        await publish(page, f"{broker.url}/topics/sensor.{number:03}", "x")
    await publish(page, f"{broker.url}/topics/news", "x")
    await page.goto(f"{broker.url}/topics")
    await page.select_option("#topics-sort", "name")
    await expect(page.locator("#topics .topic").first).to_have_text("news")
    await expect(page.locator("#topics-count")).to_have_text("206")
    await expect(page.locator("#topics .topic")).to_have_count(200)
    await expect(page.locator("#topics-hint")).to_have_text("The first 200 of 206.")
    await page.fill("#topics-search", "sensor.20")
    await expect(page.locator("#topics .topic")).to_have_text([f"sensor.20{n}" for n in range(5)])
    await expect(page.locator("#topics-count")).to_have_text("206")
    await page.fill("#topics-search", "none such")
    await expect(page.locator("#topics-hint")).to_have_text("No topic has this in its name.")


async def test_on_a_phone_the_first_event_is_near_the_top(page: Page, broker_url: str) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    await publish(page, f"{broker_url}/topics/news?event=kind", "x")
    await open_live(page, f"{broker_url}/topics/news")
    box = await page.locator("#rows .event").bounding_box()
    assert box and box["y"] < 300


async def test_start_from_earliest_shows_the_kept_events(page: Page, broker_url: str) -> None:
    for data in ("one", "two", "three"):
        await publish(page, f"{broker_url}/topics/news", data)
    await page.goto(f"{broker_url}/topics")
    await expect_state(page, "idle")
    await page.select_option("#start-kind", "earliest")
    await page.fill("#watch-topics", "news")
    await page.click("#watch-button")
    await expect(page.locator("#rows .event .data")).to_have_text(["three", "two", "one"])

    await page.select_option("#start-kind", "last")
    await page.fill("#start-value", "2")
    await page.click("#watch-button")
    await expect(page.locator("#rows .event .data")).to_have_text(["three", "two"])


async def test_reload_keeps_topics_and_start(page: Page, broker_url: str) -> None:
    await publish(page, f"{broker_url}/topics/a", "kept")
    await page.goto(f"{broker_url}/topics")
    await page.select_option("#start-kind", "earliest")
    await page.fill("#watch-topics", "a b@home:x~1")
    await page.click("#watch-button")
    await expect(page.locator("#rows .event")).to_have_count(1)

    await page.reload()
    await expect_state(page, "live")
    await expect(page.locator("#watched .topic")).to_have_text(["a", "b@home:x~1"])
    await expect(page.locator("#start-kind")).to_have_value("earliest")
    await expect(page.locator("#rows .event .data")).to_have_text("kept")


async def test_refused_stream_says_why_and_can_be_tried_again(
    page: Page, broker_url: str, complaints: list[str]
) -> None:
    await page.goto(f"{broker_url}/topics/news#since=yesterday")
    await expect_state(page, "failed")
    await expect(page.locator("#problem-text")).to_have_text(re.compile(r"Refused \(400\)\. \S+"))
    await expect(page.locator("#again")).to_be_visible()

    await page.fill("#start-value", "10m")
    await page.click("#watch-button")
    await expect_state(page, "live")
    await expect(page.locator("#again")).to_be_hidden()
    assert [said for said in complaints if "400" not in said] == []
    complaints.clear()


async def test_deleted_topic_shows_its_end_and_stays_watched(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    await publish(page, f"{broker_url}/topics/news", "before")
    await expect(page.locator("#rows .event")).to_have_count(1)
    assert (await page.request.delete(f"{broker_url}/topics/news")).status == 204
    await expect(page.locator("#rows .end .title")).to_have_text("End of news")

    await publish(page, f"{broker_url}/topics/news", "after")
    await expect(page.locator("#rows .event .data")).to_have_text(["after", "before"])
    await expect(page.locator("#rows .gap")).to_have_count(0)


async def test_closed_topic_ends_the_stream_for_good(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    await publish(page, f"{broker_url}/topics/news", "before")
    await publish(page, f"{broker_url}/topics/news?end=true", "last")
    await expect_state(page, "ended")
    await expect(page.locator("#rows .event .data")).to_have_text(["last", "before"])
    await expect(page.locator("#rows .end .title")).to_have_text("End of news")

    await page.reload()
    await expect_state(page, "ended")


async def test_rows_are_bounded_and_the_dropped_are_counted(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    lines = "".join(json.dumps({"data": f"n{n}"}) + "\n" for n in range(600))
    await publish(page, f"{broker_url}/topics/news", lines, "application/x-ndjson")

    await expect(page.locator("#received")).to_have_text("600 events")
    await expect(page.locator("#dropped")).to_have_text("100 older rows dropped")
    await expect(page.locator("#rows > li")).to_have_count(500)
    await expect(page.locator("#rows .event .data").first).to_have_text("n599")
    await expect(page.locator("#rows .event .data").last).to_have_text("n100")


async def test_pause_holds_rows_back_until_resumed(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    await page.click("#pause")
    for data in ("one", "two"):
        await publish(page, f"{broker_url}/topics/news", data)
    await expect(page.locator("#held")).to_have_text("2 held back")
    await expect(page.locator("#rows > li")).to_have_count(0)

    await page.click("#pause")
    await expect(page.locator("#rows .event .data")).to_have_text(["two", "one"])
    await page.fill("#filter", "TWO")
    await expect(page.locator("#rows .event:visible .data")).to_have_text(["two"])
    await page.fill("#filter", "")
    await page.click("#clear")
    await expect(page.locator("#rows > li")).to_have_count(0)


async def test_json_is_indented_but_its_tokens_stay_as_sent(page: Page, broker_url: str) -> None:
    await open_live(page, f"{broker_url}/topics/news")
    sent = '{"n":12345678901234567890,"n":1.50,"s":"a, {b}: \\"c\\"","e":[]}'
    await publish(page, f"{broker_url}/topics/news", sent)
    row = page.locator("#rows .event")
    await row.locator("summary").click()
    shown = row.locator("pre")
    await expect(shown).to_be_visible()
    assert await shown.text_content() == (
        '{\n  "n": 12345678901234567890,\n  "n": 1.50,\n  "s": "a, {b}: \\"c\\"",\n  "e": []\n}'
    )
    await row.get_by_role("button", name="As sent").click()
    assert await shown.text_content() == sent


async def test_listed_topic_is_watched_at_a_click(page: Page, broker_url: str) -> None:
    await publish(page, f"{broker_url}/topics/news", "kept")
    await page.goto(f"{broker_url}/topics")
    listed = page.locator("#topics button", has_text="news")
    await expect(listed).to_contain_text("1 event")
    await listed.click()
    await expect_state(page, "live")
    assert page.url == f"{broker_url}/topics/news"


@pytest.mark.parametrize("width", [360, 375])
async def test_narrow_window_never_scrolls_sideways(page: Page, broker_url: str, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 720})
    topic = "t" * 200
    await publish(page, f"{broker_url}/topics/{topic}?event={'e' * 100}", "d" * 2000)
    await open_live(page, f"{broker_url}/topics/{topic}#topic=news&lastEventId={'x' * 128}!")
    await expect(page.locator("#rows .gap")).to_have_count(2)
    await page.locator("#rows .event summary").click()
    for panel in ("publish", "topics", "code"):
        await page.click(f"#{panel}-panel > summary")
    await page.fill("#publish-data", "w" * 500)
    await page.click("#publish-button")
    await expect(page.locator("#rows .event")).to_have_count(2)
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    beyond = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    )
    assert (
        await page.evaluate(f"{beyond}.map(e => e.outerHTML.slice(0, 200))") == []
    )  # cutting it off is as bad


async def test_a_token_that_is_asked_for_lets_in_and_is_in_no_address(
    context: BrowserContext, page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    token = HMAC.token(["**"], ["**"], admin=True)
    broker = start_broker(jwt_secrets=[HMAC.material])
    await page.goto(f"{broker.url}/topics/news")
    await expect_state(page, "failed")
    await expect(page.locator("#token-hint")).to_have_text("You need a token to read from this broker.")
    await expect(page.locator("#token-how")).to_contain_text("broker token --subscribe 'news'")
    await expect(page.locator("#problem-text")).to_be_empty()
    complaints.clear()
    await page.fill("#token", token)
    await page.click("#token-form button")
    await expect_state(page, "live")
    await expect(page.locator("#token-form")).to_be_hidden()
    await expect(page.locator("#topics-panel")).to_be_visible()
    await page.fill("#publish-data", "hello")
    await page.click("#publish-button")
    await expect(page.locator("#rows .event .data")).to_have_text("hello")
    await page.click("#code-panel summary")
    assert token not in await page.content()
    assert token not in page.url
    await page.reload()
    await expect_state(page, "live")
    other = await context.new_page()
    await other.goto(f"{broker.url}/topics/news")
    await expect_state(other, "failed")
    await other.close()


async def test_a_token_that_expires_is_asked_for_anew_and_nothing_is_missed(
    page: Page, complaints: list[str], start_broker: StartBroker
) -> None:
    broker = start_broker(jwt_secrets=[HMAC.material])
    await page.goto(f"{broker.url}/topics/news")
    complaints.clear()
    await page.fill("#token", HMAC.token(subscribe=["news"], exp=time.time() + 15))
    await page.click("#token-form button")
    await expect_state(page, "live")
    await expect(page.locator("#problem-text")).to_have_text("Your token has expired.")
    blocking.publish(broker.url, "news", "meanwhile", token=HMAC.token(["news"]))
    complaints.clear()
    await page.fill("#token", HMAC.token(subscribe=["news"]))
    await page.click("#token-form button")
    await expect(page.locator("#rows .event .data")).to_have_text("meanwhile")
    await page.close()
    complaints.clear()


@asynccontextmanager
async def stripping_proxy(target: str) -> AsyncIterator[str]:
    """A reverse proxy at `/events/` that takes this path off."""
    async with ClientSession(auto_decompress=False) as session:

        async def forward(asked: web.Request) -> web.StreamResponse:
            url = target + asked.path_qs.removeprefix("/events")
            headers = {
                name: asked.headers[name] for name in ("Accept", "Content-Type") if name in asked.headers
            }
            async with session.request(asked.method, url, headers=headers, data=await asked.read()) as answer:
                passed = web.StreamResponse(status=answer.status)
                passed.headers.update(
                    {name: value for name, value in answer.headers.items() if name != "Transfer-Encoding"}
                )
                with suppress(ConnectionError):  # a reload leaves its stream
                    await passed.prepare(asked)
                    async for piece in answer.content.iter_any():
                        await passed.write(piece)
                return passed

        app = web.Application()
        app.router.add_route("*", "/events/{rest:.*}", forward)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        await runner.cleanup()


@pytest.mark.parametrize("strips", [False, True])
async def test_the_page_works_below_a_path(page: Page, start_broker: StartBroker, strips: bool) -> None:
    """Whether the broker knows the path, or a proxy takes it off."""
    broker = start_broker(base_path="" if strips else "/events")
    async with stripping_proxy(broker.url) if strips else nullcontext(broker.url) as url:
        await open_live(page, f"{url}/topics/news")
        await page.fill("#publish-data", "below a path")
        await page.click("#publish-button")
        await expect(page.locator("#rows .event .data")).to_have_text("below a path")
        await expect(page.locator("#topics .topic").first).to_have_text("news")
        assert f"{url}/topics/news" in (await page.text_content("#watch-curl") or "")
        await page.reload()
        await expect_state(page, "live")
        assert page.url == f"{url}/topics/news"
        await page.goto(f"{url}/topics")
        await expect(page.locator("#host")).to_have_text(url.removeprefix("http://"))
        await page.fill("#watch-topics", "other")
        await page.click("#watch-button")
        await expect_state(page, "live")
        assert page.url == f"{url}/topics/other"
        await page.close()  # so that its stream ends before the proxy
