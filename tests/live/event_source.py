"""Other people's SSE clients, each as a `Follower`: what its listeners received, and the same waits for all."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession
from aiohttp_sse_client2.client import EventSource
from httpx_sse import aconnect_sse
from playwright.async_api import Page, Route

from tests.support.child_process import ChildProcess
from tests.support.waiting import WAIT_SECONDS

CONTROL = ("broker.open", "broker.gap", "broker.end")
CONNECTING, OPEN, CLOSED = 0, 1, 2
MODULES = Path(__file__).parents[2] / ".cache" / "node" / "node_modules"
"""The packages of npm."""

NODE_SCRIPT = Path(__file__).with_name("follow.mjs")

EVENT_SOURCE = """([url, types, withCredentials, name = "EventSource"]) => {
    const source = new window[name](url, {withCredentials}), received = [];
    for (const type of ["open", "error", "message", ...types])
        source.addEventListener(type, ({type, data = null, lastEventId: id = null}) =>
            received.push({type, data, id, state: source.readyState, at: performance.timeOrigin + performance.now()}));
    return (window.followed ??= []).push({source, received}) - 1;
}"""
FETCH_EVENT_SOURCE = """([url]) => {
    const source = {readyState: 0}, received = [];
    const add = (type, data = null, id = null) =>
        received.push({type, data, id, state: source.readyState, at: performance.timeOrigin + performance.now()});
    fetchEventSource(url, {
        openWhenHidden: true,
        onmessage: ({event, data, id}) => add(event || "message", data, id),
        onopen: async () => { source.readyState = 1; add("open"); },
        onclose: () => { throw new Error("reconnect"); },
        onerror: () => { source.readyState = 0; add("error"); },  // reconnects after the delay that the server asked for
    });
    return (window.followed ??= []).push({source, received}) - 1;
}"""


@dataclass(frozen=True, slots=True)
class Received:
    """One event that a listener of a client received.

    Attributes:
        type: `open`, `error`, `message`, or the event's own.
        data, id: of an event; None for `open` and `error`.
        state: the client's readyState in that moment: 0 connecting, 1 open, 2 closed for good.
        at: that moment, in ms since 1970.
    """

    type: str
    data: str | None
    id: str | None
    state: int
    at: float = field(default_factory=lambda: 1000 * time.time(), compare=False)


class Follower(ABC):
    """A client that follows a stream."""

    @abstractmethod
    async def received(self) -> list[Received]:
        """Everything that its listeners received so far, in order."""

    async def events(self) -> list[Received]:
        """The same without `open` and `error`."""
        return [each for each in await self.received() if each.type not in ("open", "error")]

    async def wait_for_events(self, count: int) -> list[Received]:
        """The events, once there are `count`."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(events := await self.events()) < count:
                await asyncio.sleep(0.01)
        return events

    async def wait_for_last(self, end: str) -> list[Received]:
        """The events, once the last one's data ends with `end`."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not (events := await self.events()) or not (events[-1].data or "").endswith(end):
                await asyncio.sleep(0.01)
        return events

    async def wait_for_error(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while all(each.type != "error" for each in await self.received()):
                await asyncio.sleep(0.01)


class Source(Follower):
    """An EventSource in a page of Chromium."""

    def __init__(self, page: Page, index: int) -> None:
        self._page = page
        self._index = index

    @classmethod
    async def follow(
        cls, page: Page, url: str, types: tuple[str, ...] = CONTROL, *, credentials: bool = False
    ) -> Self:
        """Open one that listens for `message` and for `types`."""
        return cls(page, await page.evaluate(EVENT_SOURCE, [url, list(types), credentials]))

    @classmethod
    async def polyfill(cls, page: Page, url: str, types: tuple[str, ...] = CONTROL) -> Self:
        """Open one of `event-source-polyfill`, which puts its class into the page."""
        await page.add_script_tag(path=MODULES / "event-source-polyfill" / "src" / "eventsource.js")
        return cls(page, await page.evaluate(EVENT_SOURCE, [url, list(types), False, "EventSourcePolyfill"]))

    @classmethod
    async def fetch(cls, page: Page, url: str) -> Self:
        """Follow with `@microsoft/fetch-event-source`; the page loads its modules."""
        library = MODULES / "@microsoft" / "fetch-event-source" / "lib" / "esm"

        async def serve_module(route: Route) -> None:
            name = route.request.url.rsplit("/", 1)[1].removesuffix(".js")
            await route.fulfill(path=library / f"{name}.js", content_type="text/javascript")

        await page.route("**/fetch-event-source/*", serve_module)
        await page.evaluate(
            "async () => { window.fetchEventSource = (await import('/fetch-event-source/index')).fetchEventSource; }"
        )
        await page.unroute_all()
        return cls(page, await page.evaluate(FETCH_EVENT_SOURCE, [url]))

    async def received(self) -> list[Received]:
        received = await self._page.evaluate("index => followed[index].received", self._index)
        return [Received(**each) for each in received]

    async def wait_for(self, condition: str) -> None:
        """Wait until `condition` holds: JavaScript over `received`, the list, and `source`."""
        await self._page.wait_for_function(
            f"index => {{ const {{source, received}} = followed[index]; return {condition}; }}",
            arg=self._index,
            timeout=1000 * WAIT_SECONDS,
        )

    async def state(self) -> int:
        """Its readyState."""
        return int(await self._page.evaluate("index => followed[index].source.readyState", self._index))

    async def close(self) -> None:
        await self._page.evaluate("index => followed[index].source.close()", self._index)


class NodeSource(ChildProcess, Follower):
    """The EventSource of an npm package, in Node; a context manager."""

    def __init__(self, node: str, package: str, url: str, types: tuple[str, ...]) -> None:
        super().__init__([node, str(NODE_SCRIPT), str(MODULES), package, url, *types], stderr=None)

    async def received(self) -> list[Received]:
        lines = self.printed.rpartition(b"\n")[0].splitlines()
        return [Received(**json.loads(line)) for line in lines]


class PythonSource(Follower):
    """A Python library's client, in a task."""

    def __init__(self) -> None:
        self._received: list[Received] = []

    async def received(self) -> list[Received]:
        return self._received

    @classmethod
    @asynccontextmanager
    async def in_thread(
        cls, texts: Callable[[str], AbstractContextManager[Iterator[str]]], url: str
    ) -> AsyncIterator[Self]:
        """A blocking client, of which only the data is known. Its stream must end before it is left."""
        made = cls()
        failures: list[BaseException] = []

        def follow() -> None:
            try:
                with texts(url) as found:
                    for text in found:
                        made._received.append(Received("message", text, None, OPEN))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        yield made
        await asyncio.to_thread(thread.join, WAIT_SECONDS)
        assert not thread.is_alive(), "it reads on after the end"
        for failure in failures:
            raise failure

    @classmethod
    @asynccontextmanager
    async def httpx_sse(cls, url: str) -> AsyncIterator[Self]:
        """It leaves reconnecting to its user: here the few lines that its README asks for."""
        made = cls()

        async def follow() -> None:
            cursor, retry_ms = "", 1000
            async with httpx.AsyncClient(timeout=WAIT_SECONDS, trust_env=False) as http:
                while True:
                    headers = {"Last-Event-ID": cursor} if cursor else {}
                    try:
                        async with aconnect_sse(http, "GET", url, headers=headers) as source:
                            made._received.append(Received("open", None, None, OPEN))
                            async for event in source.aiter_sse():
                                cursor, retry_ms = event.id, event.retry or retry_ms
                                made._received.append(Received(event.event, event.data, event.id, OPEN))
                    except httpx.TransportError:
                        pass
                    made._received.append(Received("error", None, None, CONNECTING))
                    await asyncio.sleep(retry_ms / 1000)

        async with _running(follow()):
            yield made

    @classmethod
    @asynccontextmanager
    async def aiohttp_sse_client2(cls, url: str) -> AsyncIterator[Self]:
        """It leaves reconnecting after a cut to its user."""
        made = cls()

        async def follow() -> None:
            headers: dict[str, str] = {}
            async with ClientSession() as session:
                while True:
                    with suppress(ClientPayloadError):
                        async with EventSource(url, session=session, headers=headers) as source:
                            async for event in source:
                                headers = {"Last-Event-ID": event.last_event_id}
                                kind = event.type or "message"
                                made._received.append(Received(kind, event.data, event.last_event_id, OPEN))

        async with _running(follow()):
            yield made


@asynccontextmanager
async def _running(following: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(following)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ClientConnectionError):  # its server may be gone before it
            await task
