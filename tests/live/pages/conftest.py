"""A tab for the broker's own pages, and brokers that run for as long as it is open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize

from tests.support.broker_process import BrokerProcess
from tests.support.waiting import WAIT_SECONDS

SIZE = ViewportSize(width=1280, height=900)


class StartBroker(Protocol):
    """Starts a broker with `settings`."""

    def __call__(self, **settings: object) -> BrokerProcess: ...


@pytest.fixture
def start_broker() -> Iterator[StartBroker]:
    """Starts brokers of the test's own. They run until the tab is closed: a page complains about a stream that is cut."""
    brokers: list[BrokerProcess] = []
    with ExitStack() as stack:

        def start(**settings: object) -> BrokerProcess:
            brokers.append(stack.enter_context(BrokerProcess(**settings)))
            return brokers[-1]

        yield start
    for broker in brokers:
        print(broker.output)  # shown if the page has complained


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console has to say: script errors, refused loads, violations of the CSP."""
    return []


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser, start_broker: StartBroker) -> AsyncIterator[BrowserContext]:
    context = await chromium.new_context(viewport=SIZE)
    context.set_default_timeout(1000 * WAIT_SECONDS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, complaints: list[str]) -> AsyncIterator[Page]:
    """A tab of which the console must stay silent; a test that provokes a refusal clears `complaints` itself."""
    page = await context.new_page()

    def note(said: ConsoleMessage) -> None:
        if said.type in {"error", "warning"}:
            complaints.append(said.text)
            print(said.text, said.location)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    await page.close()
    assert complaints == []
