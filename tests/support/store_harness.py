"""Each store with a clock that the test moves, and a way to wait until all that was published is delivered."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import fields, replace
from time import monotonic, time
from typing import Protocol

from broker.stores.base import Store
from broker.stores.memory import MemoryStore
from broker.stores.redis.address import parse
from broker.stores.redis.options import StoreOptions
from broker.stores.redis.scripts import Script, Scripts, load
from broker.stores.redis.store import RedisStore
from broker.topics import Retention, RetentionRules
from tests.support.local_broker import Clock
from tests.support.redis_servers import Server
from tests.support.waiting import WAIT_SECONDS

KEEP = RetentionRules(Retention(10, 10_000, 60), [("few", Retention(2, 10_000, 60))])
OFFSET = "test:offset"

OPTIONS = StoreOptions(
    prefix="broker:",
    failover_margin_ms=10_000,
    wait_replicas=0,
    max_log_bytes=1_000_000,
    max_topics=100,
    topic_memory_seconds=3600,
    idempotency_seconds=300,
    max_key_bytes=10_000,
)


class RecordingOwner:
    """The owner of a store under test.

    Attributes:
        deliveries: topic and bytes of each.
        published_at: of each.
        commands: the broadcast commands.
    """

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, int]] = []
        self.published_at: list[float] = []
        self.commands: list[str] = []

    def delivered(self, topic: str, size: int, published_at: float = 0.0) -> bool:
        self.deliveries.append((topic, size))
        self.published_at.append(published_at)
        return True

    def delivered_at_once(self, topic: str, size: int) -> bool:
        return self.delivered(topic, size, monotonic())

    def on_broadcast(self, command: str) -> None:
        self.commands.append(command)


class StoreHarness(Protocol):
    """A store under test."""

    @property
    def store(self) -> Store: ...

    @property
    def now(self) -> float:
        """What the clock shows, in seconds since 1970."""

    def advance(self, seconds: float) -> None:
        """Move the clock that ids and ages come from, forth or back."""

    async def settle(self) -> None:
        """Wait until everything published so far is delivered."""

    async def sweep(self) -> None:
        """Have the store drop what became too old."""


class MemoryStoreHarness:
    """The store in memory: nothing of it waits."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(
            KEEP,
            clock=self.clock,
            max_log_bytes=OPTIONS.max_log_bytes,
            max_topics=OPTIONS.max_topics,
            topic_memory_seconds=OPTIONS.topic_memory_seconds,
            idempotency_seconds=OPTIONS.idempotency_seconds,
            max_key_bytes=OPTIONS.max_key_bytes,
        )

    @property
    def now(self) -> float:
        return self.clock.now

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    async def settle(self) -> None:
        """It is."""

    async def sweep(self) -> None:
        for _ in range(5):
            self.store.sweep()


class RedisStoreHarness:
    """The store in a server; its scripts add an offset, which the test sets, to their time."""

    def __init__(self, server: Server, **options: object) -> None:
        self._client = server.client()
        self._offset = 0.0
        self.store = RedisStore(
            parse(server.url),
            KEEP,
            replace(OPTIONS, **options),  # type: ignore[arg-type]
            clock=lambda: time() + self._offset,
            scripts=with_offset(load()),
        )

    def close(self) -> None:
        self._client.close()

    @property
    def now(self) -> float:
        return time() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += seconds
        self._client.set(OFFSET, round(self._offset))

    async def settle(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            last = await self.store._catch_up.sync()
            await self.store._replicas.received_to.reached(last)

    async def sweep(self) -> None:
        for _ in range(5):
            self.store.sweep()
        await self.store.topics.forget()
        await self.store.topics.close_abandoned()


def with_offset(scripts: Scripts) -> Scripts:
    """Scripts that add the seconds under the key `OFFSET` to their time."""

    def moved(script: Script) -> Script:
        before = "local time = call('TIME')\n"
        assert before in script.text
        after = f"{before}time[1] = time[1] + (call('GET', '{OFFSET}') or 0)\n"
        return script_of(script.name, script.text.replace(before, after))

    return Scripts(*(moved(getattr(scripts, field.name)) for field in fields(scripts)))


def script_of(name: str, text: str) -> Script:
    """A script of another text."""
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())
