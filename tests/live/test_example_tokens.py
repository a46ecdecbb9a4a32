"""The chat of `deploy/examples/tokens` in Chromium: whatever happens on the way, the answer is complete, and no token twice."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.support.broker_process import BrokerProcess
from tests.support.child_process import ChildProcess
from tests.support.cutting_proxy import CuttingProxy
from tests.support.ports import free_port
from tests.support.process_tree import descendants, is_running
from tests.support.waiting import WAIT_SECONDS, until, wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "tokens"
QUESTION = "Why “this”, & why now?"
WITHIN_MS = 40_000
START_SECONDS = WAIT_SECONDS

sys.path.append(str(EXAMPLE))
import model  # noqa: E402

TEXT = "".join(model.answer_to(QUESTION))


class Example:
    """The example's command; a context manager.

    Attributes:
        url: where the chat is.
        command: as it is started.
    """

    def __init__(self, *flags: str, **variables: str) -> None:
        self._environment = environment() | variables
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, str(EXAMPLE / "run.py"), "--port", str(self.port), *flags]

    def __enter__(self) -> Self:
        self._process = ChildProcess(self.command, env=self._environment)
        self._process.wait_until_up(lambda: "chat: http" in self.output, START_SECONDS)
        return self

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._process.output

    def broker_pid(self) -> int:
        """The process of the broker that it started."""
        (pid,) = descendants(self._process.pid)
        return pid

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(START_SECONDS)

    def __exit__(self, *_: object) -> None:
        if self._process.running:
            self.interrupt()


def environment() -> dict[str, str]:
    """Without what would change the example."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BROKER_"))}


@contextmanager
def chatting(tmp_path: Path, *flags: str, persists: bool = False) -> Iterator[tuple[Example, BrokerProcess]]:
    """The chat, and the broker that it uses, with short reconnect delays."""
    example = Example(*flags)
    settings: dict[str, object] = {"retry_min_ms": 50, "retry_max_ms": 100, "cors_origins": example.url}
    if persists:
        settings |= {"data": tmp_path / "data", "drain_seconds": 0.2}
    with BrokerProcess(**settings) as broker:
        example.command += ["--broker", broker.url]
        with example:
            yield example, broker


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> BrowserContext:
    expect.set_options(timeout=WITHIN_MS)
    return await chromium.new_context()


async def ask(context: BrowserContext, example: Example, *, until_tokens: int = 20) -> Page:
    """A page that has asked, and shows the beginning of the answer."""
    page = await context.new_page()
    await page.goto(example.url)
    await page.fill("#prompt", QUESTION)
    await page.click("#ask button")
    await has_tokens(page, until_tokens)
    return page


async def has_tokens(page: Page, count: int) -> None:
    length = len("".join(model.answer_to(QUESTION)[:count]))
    await page.wait_for_function(
        "length => document.getElementById('answer').textContent.length >= length",
        arg=length,
        timeout=WITHIN_MS,
    )


async def is_complete(*pages: Page) -> None:
    for page in pages:
        await expect(page.locator('#state[data-state="closed"]')).to_be_visible()
        assert await page.locator("#answer").text_content() == TEXT
        assert await page.locator("#question").text_content() == QUESTION


async def test_reload_in_mid_answer(context: BrowserContext, tmp_path: Path) -> None:
    with chatting(tmp_path) as (example, _):
        page = await ask(context, example)
        for count in (40, 80):
            await page.reload()
            await has_tokens(page, count)
        await is_complete(page)
        await page.reload()
        await is_complete(page)


async def test_two_tabs_show_the_same_answer(context: BrowserContext, tmp_path: Path) -> None:
    with chatting(tmp_path) as (example, _):
        page = await ask(context, example)
        tab = await context.new_page()
        await tab.goto(page.url)
        await is_complete(page, tab)


async def test_stop(context: BrowserContext, tmp_path: Path) -> None:
    with chatting(tmp_path) as (example, broker):
        page = await ask(context, example)
        tab = await context.new_page()
        await tab.goto(page.url)
        await page.click("#stop")
        for shown in (page, tab):
            await expect(shown.locator('#state[data-state="cancelled"]')).to_have_text("Stopped.")
        texts = [await shown.locator("#answer").text_content() for shown in (page, tab)]
        assert texts[0] == texts[1]
        assert texts[0] is not None
        assert TEXT.startswith(texts[0])
        assert len(texts[0]) < len(TEXT)
        assert broker.metric("broker_streamed_bodies") == 0
        assert "Traceback" not in example.output


async def test_network_off_and_on(context: BrowserContext) -> None:
    """Chromium's own switch lets a stream go on that is open already, so this is cut besides."""
    with (
        BrokerProcess(retry_min_ms=50, retry_max_ms=100, cors_origins="*") as broker,
        CuttingProxy(broker.port) as line,
        Example("--broker", line.url) as example,
    ):
        page = await ask(context, example)
        devtools = await context.new_cdp_session(page)
        await devtools.send("Network.enable")
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await devtools.send("Network.emulateNetworkConditions", {"offline": True, **nothing})
        line.cut_all()
        await expect(page.locator("#state")).to_have_text("Connecting again …")
        shown = await page.locator("#answer").text_content()
        published = broker.metric("broker_published_events_total")
        await until(lambda: broker.metric("broker_published_events_total") > published + 30, "more tokens")
        assert await page.locator("#answer").text_content() == shown
        assert shown != TEXT
        await devtools.send("Network.emulateNetworkConditions", {"offline": False, **nothing})
        await is_complete(page)


@pytest.mark.parametrize("how", ["restarted", "killed"])
async def test_broker_restarted_in_between(context: BrowserContext, tmp_path: Path, how: str) -> None:
    with chatting(tmp_path, persists=True) as (example, broker):
        page = await ask(context, example)
        tab = await context.new_page()
        await tab.goto(page.url)
        await has_tokens(tab, 20)
        if how == "killed":
            broker.kill()
        else:
            assert broker.terminate() == 0
        broker.start()
        await is_complete(page, tab)
        late = await context.new_page()
        await late.goto(page.url)
        await is_complete(late)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """For the one command, so that it doesn't meet another broker."""
    return ["--broker-port", str(free_port()), "--data", str(tmp_path / "data")]


async def test_one_command_runs_all_of_it_and_one_ctrl_c_ends_it(
    context: BrowserContext, flags: list[str]
) -> None:
    with Example(*flags, "--tokens-per-second", "2000") as example:
        page = await ask(context, example)
        await is_complete(page)
        assert re.search(r"chat: http://127\.0\.0\.1:\d+ \(the broker: http://", example.output)
        broker = example.broker_pid()
        assert example.interrupt() == 0
        assert not is_running(broker)
    assert "Traceback" not in example.output


async def test_a_missing_model_is_shown_on_the_page(context: BrowserContext, flags: list[str]) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    with Example(*flags, OPENAI_BASE_URL=nowhere) as example:
        page = await ask(context, example, until_tokens=0)
        await expect(page.locator('#state[data-state="failed"]')).to_have_text("The answer was broken off.")
        await expect(page.locator("#answer")).to_contain_text("The model failed: ")


async def test_ctrl_c_in_mid_answer_ends_all_of_it(context: BrowserContext, flags: list[str]) -> None:
    with Example(*flags) as example:
        await ask(context, example)
        broker = example.broker_pid()
        assert example.interrupt() == 0
        assert not is_running(broker)
    assert "Traceback" not in example.output


async def test_one_command_starts_a_broker_again_that_was_killed(
    context: BrowserContext, flags: list[str]
) -> None:
    with Example(*flags) as example:
        page = await ask(context, example)
        killed = example.broker_pid()
        os.kill(killed, signal.SIGKILL)
        await is_complete(page)
        assert example.broker_pid() != killed
        assert example.interrupt() == 0


async def test_a_page_by_the_name_localhost_may_read_the_broker(
    context: BrowserContext, flags: list[str]
) -> None:
    with Example(*flags, "--tokens-per-second", "2000") as example:
        example.url = f"http://localhost:{example.port}"
        await is_complete(await ask(context, example))


async def test_a_broker_that_cannot_start_ends_the_command(flags: list[str]) -> None:
    with Example(*flags) as example:
        other = [*example.command[:2], "--port", str(free_port()), *flags[:2], "--data", flags[3] + "-other"]
        with ChildProcess(other, env=environment()) as ended:
            assert ended.wait(START_SECONDS) == 1
        wait_for(lambda: "the broker did not start" in ended.output, "the line in the output")
        assert "Traceback" not in ended.output
