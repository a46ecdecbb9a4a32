"""Makes the picture of the chat in the README: an answer that is being written, just after a reload.

python -m tests.live.pictures
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from playwright.async_api import ViewportSize, async_playwright, expect

from tests.live.conftest import CHROMIUM_FLAGS
from tests.live.examples import Example, serve_libraries

PICTURE = Path(__file__).parents[2] / "deploy" / "guides" / "chat.png"
SIZE = ViewportSize(width=880, height=720)


async def take(example: Example) -> None:
    """Ask, reload in mid-answer, and take the picture once the page has caught up."""
    async with async_playwright() as playwright:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        context = await browser.new_context(viewport=SIZE, color_scheme="light")
        await serve_libraries(context)
        page = await context.new_page()
        await page.goto(example.url)
        await page.fill("#question", "What happens to this answer if I press F5?")
        await page.click("#ask button")
        row = page.locator(".answer tr", has_text="the network is gone")
        await expect(row).to_contain_text("catches up")
        await page.reload()
        await expect(row).to_contain_text("catches up")
        assert await page.locator(".stop").is_visible(), "the answer has ended too soon"
        await page.screenshot(path=PICTURE, animations="disabled")
        await browser.close()


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as data,
        Example("tokens", "--broker-port", "0", "--data", data, "--tokens-per-second", "5") as example,
    ):
        asyncio.run(take(example))
