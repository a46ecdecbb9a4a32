"""Subscribers and a publisher that reconnect while a test disturbs the broker, and record the events they receive."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from broker import Client
from broker.client import Gap
from tests.support.waiting import WAIT_SECONDS

RETRYABLE = {429, 503}


class Followers:
    """Subscribers of one topic, each on a connection of its own, and one publisher; all live until `complete`.

    Attributes:
        published: the data of the events that were acknowledged, in order.
        statuses: the status of each response to the publisher; 0 for a lost connection.
        received: the data of each subscriber's events.
    """

    def __init__(self, clients: list[Client], session: aiohttp.ClientSession, url: str) -> None:
        self.published: list[str] = []
        self.statuses: list[int] = []
        self.received: list[list[str]] = [[] for _ in clients]
        self._session = session
        self._url = f"{url}/topics/news"
        self._done = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._follow(client, got))
            for client, got in zip(clients, self.received, strict=True)
        ]
        self._tasks.append(asyncio.create_task(self._publish()))

    async def _follow(self, client: Client, got: list[str]) -> None:
        async for event in client.subscribe("news", since="earliest"):
            assert not isinstance(event, Gap), event
            got.append(event.data)

    async def _publish(self) -> None:
        for number in itertools.count():
            if self._done.is_set():
                return
            while (status := await self._post(str(number))) not in range(200, 300):
                assert status in RETRYABLE or status == 0, status
                await asyncio.sleep(0.02)
            self.published.append(str(number))
            await asyncio.sleep(0.005)

    async def _post(self, data: str) -> int:
        try:
            async with self._session.post(self._url, data=data, headers={"Idempotency-Key": data}) as answer:
                await answer.read()
                self.statuses.append(answer.status)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            self.statuses.append(0)
        return self.statuses[-1]

    async def more(self, count: int = 20) -> None:
        """Wait until `count` more events are published and every subscriber has received the last of them."""
        target = len(self.published) + count

        def reached() -> bool:
            return len(self.published) >= target and all(
                int(got[-1]) >= target - 1 if got else False for got in self.received
            )

        await self._until(reached)

    async def complete(self) -> None:
        """Stop publishing and check that every subscriber receives every event once, in order, without a gap."""
        self._done.set()
        await self._tasks[-1]
        await self._until(lambda: all(len(got) >= len(self.published) for got in self.received))
        for got in self.received:
            assert got == self.published

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def following(url: str, subscribers: int = 8) -> AsyncIterator[Followers]:
    """Followers of `news` that run until the block ends."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(url, max_delay_seconds=1)) for _ in range(subscribers)
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        followers = Followers(clients, session, url)
        try:
            yield followers
        finally:
            await followers.stop()
