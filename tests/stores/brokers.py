"""Brokers on a real server, and the claims that hold during every fault (`test_faults*.py`).

A 2xx means that the event is in the store; otherwise the publisher gets 503 in time. Live subscribers keep their connections.
Missed payloads are read from the store, in order. Events that the store has lost become a gap.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from typing import Any

from broker.events import parse_id
from tests.support.event_stream import AsyncStream, EventStream
from tests.support.local_broker import Server
from tests.support.redis_servers import Server as RedisServer
from tests.support.waiting import WAIT_SECONDS

StartBroker = Callable[..., Awaitable[Server]]
StartPair = Callable[..., Awaitable[tuple[Server, Server]]]
BOTH = "/topics?topic=a&topic=b"


class Publisher:
    """Publishes numbers one after the other. `taken` are those with the answer 201."""

    def __init__(self, broker: Server, topic: str = "a") -> None:
        self.broker = broker
        self.topic = topic
        self.number = 0
        self.taken: dict[int, int] = {}
        self.refused: list[int] = []

    async def once(self) -> bool:
        """Publish the next number. Returns whether the answer was 201; if not, it was 503."""
        self.number += 1
        number = self.number
        answer = await self.broker.request("POST", f"/topics/{self.topic}", str(number).encode())
        if answer.status == 201:
            event_id = parse_id(str(answer.json()["id"]))
            assert event_id is not None
            self.taken[number] = event_id
            return True
        assert (answer.status, answer.json()["code"]) == (503, "unavailable"), answer
        assert "retry-after" in answer.headers
        self.refused.append(number)
        return False

    async def some(self, count: int) -> None:
        for _ in range(count):
            assert await self.once()

    async def until_taken(self) -> None:
        """Publish until one is taken."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not await self.once():
                await asyncio.sleep(0.02)


async def alone_and_both(broker: Server) -> tuple[AsyncStream, AsyncStream]:
    """A new stream of topic `a`, and one of `a` and `b`."""
    return await broker.subscribe("/topics/a"), await broker.subscribe(BOTH)


async def both_with_one(publisher: Server, broker: Server) -> tuple[AsyncStream, AsyncStream]:
    """The same of `broker`; both have got the event "1" of topic `a`."""
    streams = await alone_and_both(broker)
    await publisher.publish("a", "1")
    for stream in streams:
        assert await stream.data(1) == ["1"]
    return streams


def numbers(stream: EventStream) -> list[int]:
    return [int(event.data) for event in stream.published()]


async def expect_all_taken(stream: AsyncStream, publisher: Publisher) -> None:
    """Read until the last taken number. All taken ones arrived, once and in order; refused ones may be among them."""
    last = max(publisher.taken.values())
    await stream.until(lambda: any(parse_id(event.id) == last for event in stream.published()))
    seen = numbers(stream)
    assert len(seen) == len(set(seen)), "no number twice"
    assert set(publisher.taken) <= set(seen) <= set(publisher.taken) | set(publisher.refused)
    ids = [parse_id(event.id) for event in stream.published()]
    assert ids == sorted(ids, key=lambda one: one or 0)


async def ready(broker: Server) -> bool:
    return (await broker.request("GET", "/readyz")).status == 200


async def until_ready(*brokers: Server) -> None:
    for broker in brokers:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await ready(broker):
                await asyncio.sleep(0.02)


async def until_not_ready(broker: Server) -> dict[str, Any]:
    """Returns the checks of the answer that was not 200."""
    async with asyncio.timeout(WAIT_SECONDS):
        while await ready(broker):
            await asyncio.sleep(0.02)
    checks = (await broker.request("GET", "/readyz")).json()["checks"]
    assert isinstance(checks, dict)
    return checks


class Older:
    """A server that can go back to its state when this was made."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._copy = server.directory / "older"
        with server.client() as client:
            client.save()
        shutil.copy(server.directory / "dump.rdb", self._copy)

    def load(self) -> None:
        self._server.kill()
        shutil.copy(self._copy, self._server.directory / "dump.rdb")
        self._server.start()
