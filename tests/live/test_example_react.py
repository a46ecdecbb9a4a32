"""The example of React in Chromium: `useChat` with the broker's transport, over reloads, in two tabs, stopped and failed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.live.conftest import leave_out
from tests.live.event_source import MODULES
from tests.live.examples import CLIENT, EXAMPLES, Example
from tests.live.held_model import HeldModel
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
QUESTION = "Why “this”, & why now?"

sys.path.append(str(EXAMPLES))
import model  # noqa: E402


def answer_to(*questions: str) -> str:
    return "".join(model.answer_to([{"role": "user", "content": question} for question in questions]))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, in which npm's packages are installed, without the network."""
    if not MODULES.exists() or shutil.which("npm") is None:
        leave_out("npm, or its packages", "apt-get install nodejs npm, then tests/run")
    copy = tmp_path_factory.mktemp("examples") / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("node_modules", "build", "__pycache__"))
    modules = copy / "react" / "node_modules"
    modules.mkdir()
    for package in (*MODULES.iterdir(), MODULES / ".bin"):
        if not (modules / package.name).exists():
            (modules / package.name).symlink_to(package)
    (modules / "sse-broker").symlink_to(CLIENT)
    return copy


@pytest.fixture(scope="module")
def example(
    examples: Path, modules_model: HeldModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Example]:
    flags = ("--broker-port", str(free_port()), "--data", str(tmp_path_factory.mktemp("react") / "data"))
    with Example("react", *flags, examples=examples, model=modules_model.url) as example:
        yield example


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser, example: Example, held_model: HeldModel) -> Page:
    """A page that has asked, and shows the beginning of the answer."""
    page = await (await chromium.new_context()).new_page()
    await page.goto(example.url)
    await ask(page, QUESTION)
    await expect(page.locator(".assistant")).to_contain_text("Where this answer is")
    return page


async def ask(page: Page, question: str) -> None:
    await page.fill("[name=question]", question)
    await page.get_by_role("button", name="Ask").click()


async def is_complete(page: Page, *questions: str) -> None:
    await expect(page.locator("#state[data-status=ready]")).to_be_attached()
    await expect(page.locator(".assistant")).to_have_count(len(questions))
    await expect(page.locator("#state")).to_be_empty()
    assert await page.locator(".user").all_text_contents() == list(questions)
    expected = [answer_to(*questions[: number + 1]) for number in range(len(questions))]
    assert await page.locator(".assistant").all_text_contents() == expected


async def test_reload_in_mid_answer_and_a_second_tab(page: Page, held_model: HeldModel) -> None:
    await page.reload()
    await expect(page.locator(".assistant")).to_contain_text("Where this answer is")
    tab = await page.context.new_page()
    await tab.goto(page.url)
    held_model.allow()
    for shown in (page, tab):
        await is_complete(shown, QUESTION)
    await ask(tab, "And then?")
    await is_complete(tab, QUESTION, "And then?")
    await page.reload()
    await is_complete(page, QUESTION, "And then?")


async def test_stop(page: Page) -> None:
    await page.get_by_role("button", name="Stop").click()
    for _ in range(2):  # the second time after a reload
        await expect(page.locator("#state[data-status=ready]")).to_have_text("Stopped.")
        text = await page.locator(".assistant").text_content()
        assert text is not None
        assert answer_to(QUESTION).startswith(text)
        assert len(text) < len(answer_to(QUESTION))
        await page.reload()


async def test_a_model_that_fails(chromium: Browser, examples: Path, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    flags = ("--broker-port", str(free_port()), "--data", str(tmp_path / "data"))
    with Example("react", *flags, examples=examples, model=nowhere) as example:
        page = await chromium.new_page()
        await page.goto(example.url)
        await ask(page, QUESTION)
        for _ in range(2):
            await expect(page.locator("#state[data-status=error]")).to_have_text("The answer failed.")
            await page.reload()


async def test_a_chat_is_read_only_by_its_id(page: Page, example: Example) -> None:
    chat = page.url.partition("#")[2]
    for path, status in (
        (f"/api/chat/{chat}", 200),
        (f"/api/chat/{'0' * 36}", 204),
        ("/api/chat/**", 422),
        ("/api/chat/**/token", 422),
        (f"/api/chat/{'0' * 36}.x/token", 422),
    ):
        assert (await page.request.get(f"{example.url}{path}")).status == status, path
    rebound = await page.request.get(f"{example.url}/api/chat/{chat}", headers={"Host": "evil.example"})
    assert rebound.status == 400


async def test_its_packages_are_those_that_the_tests_install() -> None:
    """So that the tests run with the reader's packages."""
    asked, tested = (
        json.loads(file.read_text())["dependencies"]
        for file in (EXAMPLES / "react" / "package.json", Path(__file__).with_name("package.json"))
    )
    del asked["sse-broker"]
    assert asked.items() <= tested.items()
