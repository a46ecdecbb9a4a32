"""The example of FastAPI in Chromium: an answer that outlives its request, a reload and the reader's patience."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.live.examples import EXAMPLES, Example
from tests.live.held_model import HeldModel
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
QUESTION = "Why “this”, & why now?"

sys.path.append(str(EXAMPLES))
import model  # noqa: E402

TEXT = "".join(model.answer_to([{"role": "user", "content": QUESTION}]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("example") / "data"


@pytest.fixture(scope="module")
def example(data: Path, modules_model: HeldModel) -> Iterator[Example]:
    flags = ("--broker-port", str(free_port()), "--data", str(data))
    with Example("fastapi", *flags, model=modules_model.url) as example:
        yield example


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser, example: Example, held_model: HeldModel) -> Page:
    """A page that has asked, and shows the beginning of the answer."""
    page = await (await chromium.new_context()).new_page()
    await page.goto(example.url)
    await page.fill("#question", QUESTION)
    await page.click("form button")
    await expect(page.locator("#answer")).to_contain_text("Where this answer is")
    return page


async def is_complete(page: Page) -> None:
    await expect(page.locator("#state")).to_have_text("Done.")
    assert await page.locator("#answer").text_content() == TEXT


async def test_an_answer_outlives_a_reload_and_shows_in_a_second_tab(
    page: Page, held_model: HeldModel
) -> None:
    await page.reload()
    tab = await page.context.new_page()
    await tab.goto(page.url)
    held_model.allow()
    await is_complete(page)
    await is_complete(tab)
    await page.reload()
    await is_complete(page)


async def test_stop(page: Page) -> None:
    await page.click("#stop")
    for _ in range(2):  # the second time after a reload
        await expect(page.locator("#state")).to_have_text("Stopped.")
        await expect(page.locator("#stop")).to_be_hidden()
        text = await page.locator("#answer").text_content()
        assert text is not None
        assert TEXT.startswith(text)
        assert len(text) < len(TEXT)
        await page.reload()


async def test_a_model_that_fails(chromium: Browser, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    flags = ("--broker-port", str(free_port()), "--data", str(tmp_path / "data"))
    with Example("fastapi", *flags, model=nowhere) as example:
        page = await chromium.new_page()
        await page.goto(example.url)
        await page.fill("#question", QUESTION)
        await page.click("form button")
        for _ in range(2):
            await expect(page.locator("#state")).to_have_text("The model failed.")
            await page.reload()


@pytest.mark.parametrize("topic", ["**", "answers.*", "answers.**", "news", f"answers.{'x' * 15}*"])
async def test_a_token_is_for_one_answer(example: Example, chromium: Browser, topic: str) -> None:
    context = await chromium.new_context()
    assert (await context.request.get(f"{example.url}/token/{topic}")).status == 422
    assert (await context.request.post(f"{example.url}/stop/{topic}")).status == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "evil.example", "Content-Type": "application/json"}, 400, id="rebound"),
        pytest.param({"Content-Type": "text/plain"}, 422, id="a type that needs no preflight"),
    ],
)
async def test_a_page_of_another_site_may_not_ask(
    example: Example, chromium: Browser, headers: dict[str, str], status: int
) -> None:
    context = await chromium.new_context()
    answer = await context.request.post(f"{example.url}/ask", headers=headers, data='{"question": "Why?"}')
    assert answer.status == status
