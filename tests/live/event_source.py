"""An EventSource in a page of Chromium, and the events that its listeners received."""

from __future__ import annotations

from typing import Self

from playwright.async_api import Page
from playwright.async_api import TimeoutError as WaitedTooLong

from tests.live.node import Received

WITHIN_MS = 20_000
CONTROL = ("broker.open", "broker.gap", "broker.end")
CONNECTING, OPEN, CLOSED = 0, 1, 2

FOLLOW = """([url, types, withCredentials]) => {
    const source = new EventSource(url, {withCredentials}), received = [];
    for (const type of ["open", "error", "message", ...types])
        source.addEventListener(type, ({type, data = null, lastEventId: id = null}) =>
            received.push({type, data, id, state: source.readyState}));
    return (window.followed ??= []).push({source, received}) - 1;
}"""


class Source:
    """An EventSource in a page."""

    def __init__(self, page: Page, index: int) -> None:
        self._page = page
        self._index = index

    @classmethod
    async def follow(
        cls, page: Page, url: str, types: tuple[str, ...] = CONTROL, *, credentials: bool = False
    ) -> Self:
        """Open one that listens for `message` and for `types`."""
        return cls(page, await page.evaluate(FOLLOW, [url, list(types), credentials]))

    async def received(self) -> list[Received]:
        """Everything that its listeners received so far, in order."""
        received = await self._page.evaluate("index => followed[index].received", self._index)
        return [Received(**each) for each in received]

    async def events(self) -> list[Received]:
        """The same without `open` and `error`."""
        return [each for each in await self.received() if each.type not in ("open", "error")]

    async def wait_for(self, condition: str, within_ms: float = WITHIN_MS) -> None:
        """Wait until `condition` holds: JavaScript over `received`, the list, and `source`."""
        try:
            await self._page.wait_for_function(
                f"index => {{ const {{source, received}} = followed[index]; return {condition}; }}",
                arg=self._index,
                timeout=within_ms,
            )
        except WaitedTooLong:
            raise AssertionError(f"{condition} did not come true: {await self.received()}") from None

    async def wait_for_events(self, count: int) -> list[Received]:
        """The events, once there are `count`."""
        await self.wait_for(
            f"received.filter(({{type}}) => type != 'open' && type != 'error').length >= {count}"
        )
        return await self.events()

    async def state(self) -> int:
        """Its readyState."""
        return int(await self._page.evaluate("index => followed[index].source.readyState", self._index))

    async def close(self) -> None:
        await self._page.evaluate("index => followed[index].source.close()", self._index)
