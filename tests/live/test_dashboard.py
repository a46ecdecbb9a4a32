"""The dashboard in a real Chromium: its figures, charts, instances; a restart, a token, a broker without charts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
PICTURES = Path(__file__).parents[2] / ".cache" / "pictures"
HIDDEN = "() => document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console has to say: script errors, refused loads, violations of the CSP."""
    return []


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> BrowserContext:
    expect.set_options(timeout=WAIT_SECONDS * 1000)
    context = await chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_SECONDS * 1000)
    return context


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, complaints: list[str]) -> AsyncIterator[Page]:
    """A tab of which the console must stay silent; a test that provokes a refusal clears `complaints` itself."""
    page = await context.new_page()
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []


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
        broker.publish("news", "1")
        await expect(page.locator(tile(page, "Publishes"))).not_to_have_text("0")
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


async def test_it_survives_a_restart_of_the_broker(page: Page, complaints: list[str]) -> None:
    with BrokerProcess(retry_min_ms=50, retry_max_ms=50) as broker:
        await open_dashboard(page, broker.url)
        with Stream(broker.port, "/topics/news"):
            await expect(page.locator(tile(page, "Streams"))).to_have_text("2")
        before = await page.locator("#instance-rows th").text_content()
        broker.kill()
        await expect(page.locator('#state[data-state="reconnecting"]')).to_be_visible()
        broker.start()
        await expect(page.locator('#state[data-state="live"]')).to_be_visible()
        await expect(page.locator("#instance-rows")).not_to_contain_text(before or "")
        await expect(page.locator("#instance-rows tr")).to_have_count(1)
        await expect(page.locator("#problem")).to_be_hidden()
        await page.goto("about:blank")  # so that its stream ends first
    complaints.clear()  # about the broker that was away


async def test_a_token_without_the_right_is_refused_in_plain_words(page: Page, complaints: list[str]) -> None:
    with BrokerProcess(jwt_secrets=[HMAC.material]) as broker:
        await page.goto(f"{broker.url}/")
        form = page.locator("#token-form")
        await expect(form).to_be_visible()
        await expect(form).to_contain_text("needs the right admin")
        await page.fill("#token", HMAC.token(["**"], ["**"]))
        await page.press("#token", "Enter")
        await expect(page.locator("#token-hint")).to_contain_text("does not have that right")
        await page.fill("#token", HMAC.token((), (), admin=True))
        await page.press("#token", "Enter")
        await expect(form).to_be_hidden()
        await expect(page.locator(tile(page, "Streams"))).to_have_text("1")
        assert "access_token" not in page.url
        await page.goto("about:blank")
    complaints.clear()  # about the refusals


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_picture(chromium: Browser, broker: BrokerProcess, width: int, scheme: str) -> None:
    """Makes the pictures that a person looks at; on a phone nothing scrolls sideways."""
    context = await chromium.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = await context.new_page()
    await open_dashboard(page, broker.url)
    await expect(page.locator("#charts canvas")).to_have_count(6)
    assert await page.evaluate(HIDDEN)
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=PICTURES / f"dashboard-{width}-{scheme}.png", full_page=True)
    await context.close()
