"""The browser client in a page, as a test sees it."""

from __future__ import annotations

import json
from typing import Any, Self

from playwright.async_api import Page

from tests.support.waiting import WAIT_SECONDS

OPEN = """async ([module, topics, {token, iterate, ...options}]) => {
    const {follow} = window.client ?? await import(module);
    const calls = [], record = kind => value => calls.push({kind, ...value});
    const callbacks = {onEvent: record("event"), onGap: record("gap"), onEnd: record("end"), onCancel: record("cancel"), onState: record("state")};
    if (token) options.token = token === "ask" ? reason => window.newToken(reason) : token;
    const following = follow(topics, {...options, ...callbacks});
    const iterated = [];
    if (iterate) (async () => {
        for await (const {data} of following) iterated.push(data);
        calls.push({kind: "iterated"});
    })();
    return (window.followed ??= []).push({following, calls, iterated}) - 1;
}"""


class Following:
    """What `follow` returned in a page, and all calls of its callbacks."""

    def __init__(self, page: Page, index: int) -> None:
        self.page = page
        self._index = index

    @classmethod
    async def open(cls, page: Page, *topics: str, module: str = "/client.js", **options: object) -> Self:
        """Follow `topics`; a page that has `window.client` need not load `module`. With `token="ask"`, the page's function `newToken` makes tokens; with `iterate`, a loop takes events too."""
        return cls(page, await page.evaluate(OPEN, [module, list(topics), options]))

    async def calls(self, *kinds: str) -> list[dict[str, Any]]:
        """The calls of its callbacks so far, in order."""
        calls: list[dict[str, Any]] = await self.evaluate("calls")
        return [each for each in calls if not kinds or each["kind"] in kinds]

    async def data(self) -> list[str]:
        """The data of its events."""
        return [event["data"] for event in await self.calls("event")]

    async def evaluate(self, expression: str) -> Any:
        """`expression` is JavaScript over `following`, `calls` and `iterated`."""
        return await self.page.evaluate(
            f"index => {{ const {{following, calls, iterated}} = followed[index]; return {expression}; }}",
            self._index,
        )

    async def wait_for(self, condition: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until `condition` holds, an expression as of `evaluate`."""
        await self.page.wait_for_function(
            f"index => {{ const {{following, calls, iterated}} = followed[index]; return {condition}; }}",
            arg=self._index,
            timeout=1000 * seconds,
        )

    async def wait_for_data(self, *expected: str) -> None:
        """Wait for as many events; theirs must be these data, each once and in order."""
        await self.wait_for(f"calls.filter(({{kind}}) => kind == 'event').length >= {len(expected)}")
        assert await self.data() == list(expected)

    async def wait_until_live(self, *transports: str) -> None:
        """Wait until it is live, by one of `transports`; by default any, for a busy machine may be too slow for a stream."""
        named = json.dumps(transports or ("stream", "polling"))
        await self.wait_for(f"following.state.state == 'live' && {named}.includes(following.state.transport)")
