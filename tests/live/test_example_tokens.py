"""The chat of `deploy/examples/tokens` in Chromium: whatever happens on the way, the answer is complete, and no token twice."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.live.proxies import free_port
from tests.processes import BrokerProcess, wait_for

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "tokens"
QUESTION = "Why “this”, & why now?"
WITHIN_MS = 40_000
START_SECONDS = 60

sys.path.append(str(EXAMPLE))
import model  # noqa: E402

TEXT = "".join(model.answer_to(QUESTION))


class Example:
    """The example's command; a context manager.

    Attributes:
        url: where the chat is.
        output: all it printed.
    """

    def __init__(self, *flags: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = ""
        self._command = [sys.executable, str(EXAMPLE / "run.py"), "--port", str(self.port), *flags]

    def __enter__(self) -> Self:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BROKER_"))
        }
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(
            lambda: "chat: http" in self.output or self._process.poll() is not None, "its line", START_SECONDS
        )
        assert self._process.poll() is None, self.output
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(START_SECONDS)
        self._reader.join(START_SECONDS)
        return status

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.interrupt()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def chatting(tmp_path: Path, *flags: str, persists: bool = False) -> Iterator[tuple[Example, BrokerProcess]]:
    """The chat, and the broker that it uses, whose clients come back soon."""
    example = Example(*flags)
    settings: dict[str, object] = {"retry_min_ms": 50, "retry_max_ms": 100, "cors_origins": example.url}
    if persists:
        settings |= {"data": tmp_path / "data", "drain_seconds": 0.2}
    with BrokerProcess(**settings) as broker:
        example._command += ["--broker", broker.url]
        with example:
            yield example, broker


@pytest.fixture
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
            await expect(shown.locator('#state[data-state="closed"]')).to_be_visible()
        texts = [await shown.locator("#answer").text_content() for shown in (page, tab)]
        assert texts[0] == texts[1]
        assert texts[0] is not None
        assert TEXT.startswith(texts[0])
        assert len(texts[0]) < len(TEXT)
        assert broker.metric("broker_streamed_bodies") == 0


async def test_network_off_and_on(context: BrowserContext, tmp_path: Path) -> None:
    with chatting(tmp_path) as (example, broker):
        page = await ask(context, example)
        devtools = await context.new_cdp_session(page)
        await devtools.send("Network.enable")
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await devtools.send("Network.emulateNetworkConditions", {"offline": True, **nothing})
        published = broker.metric("broker_published_events_total")
        await until(lambda: broker.metric("broker_published_events_total") > published + 30)
        await devtools.send("Network.emulateNetworkConditions", {"offline": False, **nothing})
        await is_complete(page)


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.05)


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


def lines_of(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if line]


async def test_one_command_runs_all_of_it_and_one_ctrl_c_ends_it(
    context: BrowserContext, tmp_path: Path
) -> None:
    flags = (
        "--broker-port",
        str(free_port()),
        "--data",
        str(tmp_path / "data"),
        "--tokens-per-second",
        "2000",
    )
    with Example(*flags) as example:
        page = await ask(context, example)
        await is_complete(page)
        assert re.search(r"chat: http://127\.0\.0\.1:\d+ \(the broker: http://", example.output)
        assert example.interrupt() == 0
    assert "Traceback" not in example.output
