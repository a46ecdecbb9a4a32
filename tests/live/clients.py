"""The SSE clients that people use, and in which ways each differs from the standard.

- Chromium's EventSource, on a page of the broker's origin.
- npm's `event-source-polyfill`, in Chromium. It reconnects with its cursor in the query, as `lastEventId`, after a second
  at least, whatever the broker asked for.
- npm's `eventsource` in Node: release 3, which uses fetch and eventsource-parser, and release 2 with a parser of its own.
  Releases 4 and 5 are release 3 for newer Nodes than Debian's (18). Release 2 keeps half an event over a reconnect.
- npm's `@microsoft/fetch-event-source`, in Chromium. It takes every blank line for an event, so a heartbeat must not have
  one. It takes an event's id before the event: a cut between the two loses the event, so the broker writes each event in
  one piece, its id last.
- httpx-sse. It takes a blank line for an event once it has seen an id. Its user reconnects.
- aiohttp-sse-client2. It reconnects once, after an end; after a cut its user gets an exception, and reconnects.
- requests and urllib3, and three clients built on them: sseclient-py, requests-sse and launchdarkly-eventsource. They
  read by chunk.
- openai-python and anthropic, which take each event for a part of the answer and so need `control=none`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from playwright.async_api import Page

from tests.live import blocking_clients
from tests.live.event_source import MODULES, Follower, NodeSource, PythonSource, Source
from tests.support.cutting_proxy import DATA_LINE_BYTES, FRAME_BYTES, ID_LINE_END

Open = Callable[[Any, str, tuple[str, ...]], AbstractAsyncContextManager[Follower]]
"""Takes what the client runs in (a page, the path of Node, None), the URL, and the types that an EventSource listens for."""


@dataclass(frozen=True)
class Reconnecting:
    """How a client reconnects.

    Attributes:
        own_delay: s after which it reconnects if the broker names no delay; None if it always needs one, or never waits less.
        cuts: where in an event the connection may be cut without a loss.
        defects: by the byte at which the first of two events is cut, the data that it returns: {0} and {1} are theirs.
        persists: it reconnects until the server is back.
    """

    own_delay: float | None
    cuts: Sequence[int] = range(FRAME_BYTES + 1)
    defects: Mapping[int, Sequence[str]] = field(default_factory=dict)
    persists: bool = True


@dataclass(frozen=True)
class Client:
    """A client and its peculiarities.

    Attributes:
        package: the package that it comes in, of Python or of npm; "" for Chromium's own.
        needs: the fixture that it runs in, if any.
        reconnecting: None if that is left to its user.
        event: the type and data of an event that says a text, as it expects them.
    """

    package: str
    needs: str
    open: Open
    reconnecting: Reconnecting | None = None
    event: Callable[[str], tuple[str | None, str]] = lambda text: (None, text)

    def version(self, runs_in: Page | str | None) -> str:
        if not self.needs:
            return version(self.package)
        if not self.package:
            assert isinstance(runs_in, Page)
            browser = runs_in.context.browser
            assert browser
            return browser.version
        return str(json.loads((MODULES / self.package / "package.json").read_text())["version"])


@asynccontextmanager
async def chromium(page: Page, url: str, types: tuple[str, ...]) -> AsyncIterator[Source]:
    await _visit(page, url)
    yield await Source.follow(page, url, types)


@asynccontextmanager
async def polyfill(page: Page, url: str, types: tuple[str, ...]) -> AsyncIterator[Source]:
    await _visit(page, url)
    yield await Source.polyfill(page, url, types)


@asynccontextmanager
async def fetch_event_source(page: Page, url: str, types: tuple[str, ...]) -> AsyncIterator[Source]:
    await _visit(page, url)
    yield await Source.fetch(page, url)


async def _visit(page: Page, url: str) -> None:
    """Go to a page of the broker's origin."""
    origin = url.partition("/topics")[0]
    if not page.url.startswith(origin):
        await page.goto(f"{origin}/healthz")


def in_node(package: str) -> Open:
    @asynccontextmanager
    async def start(node: str, url: str, types: tuple[str, ...]) -> AsyncIterator[NodeSource]:
        with NodeSource(node, package, url, types) as source:
            yield source

    return start


def httpx_sse(runs_in: None, url: str, types: tuple[str, ...]) -> AbstractAsyncContextManager[Follower]:
    return PythonSource.httpx_sse(url)


def aiohttp_sse_client2(
    runs_in: None, url: str, types: tuple[str, ...]
) -> AbstractAsyncContextManager[Follower]:
    return PythonSource.aiohttp_sse_client2(url)


def blocking(texts: Callable[[str], AbstractContextManager[Iterator[str]]]) -> Open:
    return lambda runs_in, url, types: PythonSource.in_thread(texts, url)


CLIENTS = {
    "EventSource of Chromium": Client("", "page", chromium, Reconnecting(3.0)),
    "event-source-polyfill": Client(
        "event-source-polyfill",
        "page",
        polyfill,
        Reconnecting(None, [*range(0, FRAME_BYTES, 7), ID_LINE_END, FRAME_BYTES]),  # each takes a second
    ),
    "eventsource 3": Client("eventsource", "node", in_node("eventsource"), Reconnecting(3.0)),
    "eventsource 2": Client(
        "eventsource-v2",
        "node",
        in_node("eventsource-v2"),
        Reconnecting(
            1.0,
            [*range(DATA_LINE_BYTES), FRAME_BYTES],
            {DATA_LINE_BYTES: ["{0}\n{0}", "{1}"], ID_LINE_END: ["{0}\n{1}"]},
        ),
    ),
    "fetch-event-source": Client(
        "@microsoft/fetch-event-source",
        "page",
        fetch_event_source,
        Reconnecting(
            1.0,
            [offset for offset in range(FRAME_BYTES + 1) if offset != ID_LINE_END],
            {ID_LINE_END: ["{1}"]},
        ),
    ),
    "httpx-sse": Client("httpx-sse", "", httpx_sse, Reconnecting(None)),
    "aiohttp-sse-client2": Client(
        "aiohttp-sse-client2", "", aiohttp_sse_client2, Reconnecting(None, persists=False)
    ),
    "requests, iter_lines": Client("requests", "", blocking(blocking_clients.requests_lines)),
    "requests, iter_content": Client("requests", "", blocking(blocking_clients.requests_content)),
    "urllib3": Client("urllib3", "", blocking(blocking_clients.urllib3_stream)),
    "sseclient-py": Client("sseclient-py", "", blocking(blocking_clients.sseclient_py)),
    "requests-sse": Client("requests-sse", "", blocking(blocking_clients.requests_sse)),
    "launchdarkly-eventsource": Client(
        "launchdarkly-eventsource", "", blocking(blocking_clients.launchdarkly)
    ),
    "openai-python": Client(
        "openai", "", blocking(blocking_clients.openai_python), event=blocking_clients.openai_event
    ),
    "anthropic": Client(
        "anthropic", "", blocking(blocking_clients.anthropic_python), event=blocking_clients.anthropic_event
    ),
}
