"""An EventSource in a page of Chromium's, and what it told."""

from __future__ import annotations

from typing import Self

from playwright.async_api import Page
from playwright.async_api import TimeoutError as WaitedTooLong

from tests.live.node import Told

WITHIN_MS = 20_000
CONTROL = ("broker.open", "broker.gap", "broker.end")
CONNECTING, OPEN, CLOSED = 0, 1, 2

FOLLOW = """([url, types, withCredentials]) => {
    const source = new EventSource(url, {withCredentials}), told = [];
    for (const type of ["open", "error", "message", ...types])
        source.addEventListener(type, ({type, data = null, lastEventId: id = null}) =>
            told.push({type, data, id, state: source.readyState}));
    return (window.followed ??= []).push({source, told}) - 1;
}"""


class Source:
    """An EventSource in a page, and what it told its listeners."""

    def __init__(self, page: Page, index: int) -> None:
        self._page = page
        self._index = index

    @classmethod
    async def follow(
        cls, page: Page, url: str, types: tuple[str, ...] = CONTROL, *, credentials: bool = False
    ) -> Self:
        """Open one that listens for `types` beside `message`."""
        return cls(page, await page.evaluate(FOLLOW, [url, list(types), credentials]))

    async def told(self) -> list[Told]:
        """All it told so far, in order."""
        told = await self._page.evaluate("index => followed[index].told", self._index)
        return [Told(**each) for each in told]

    async def events(self) -> list[Told]:
        """What it told but for `open` and `error`."""
        return [told for told in await self.told() if told.type not in ("open", "error")]

    async def wait_for(self, condition: str, within_ms: float = WITHIN_MS) -> None:
        """Wait until `condition` holds, JavaScript over `told`, the list, and `source`."""
        try:
            await self._page.wait_for_function(
                f"index => {{ const {{source, told}} = followed[index]; return {condition}; }}",
                arg=self._index,
                timeout=within_ms,
            )
        except WaitedTooLong:
            raise AssertionError(f"{condition} did not come true: {await self.told()}") from None

    async def wait_for_events(self, count: int) -> list[Told]:
        """The events, once there are `count`."""
        await self.wait_for(f"told.filter(({{type}}) => type != 'open' && type != 'error').length >= {count}")
        return await self.events()

    async def state(self) -> int:
        """Its readyState."""
        return int(await self._page.evaluate("index => followed[index].source.readyState", self._index))

    async def close(self) -> None:
        await self._page.evaluate("index => followed[index].source.close()", self._index)
