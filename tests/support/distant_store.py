"""The store in memory as if it were on another machine: a test decides when its answers come, and whether they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from broker.events import EventId
from broker.node.node import Node
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt, Store, TopicState

Travel = Callable[[], Awaitable[object]]
"""Awaited before each call of a store; the call raises its exceptions."""


def keep_at_a_distance(node: Node, travel: Travel) -> None:
    """Have `node` publish to its own store, but never at once: each call awaits `travel` first."""
    node._store = cast("Store", DistantStore(node._store, travel))
    node._publish_at_once = node._store.topics.publish_at_once


class DistantStore:
    """`near` with topics at a distance."""

    def __init__(self, near: Store, travel: Travel) -> None:
        self._near = near
        self.topics = DistantTopics(near, travel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._near, name)


class DistantTopics:
    """Implements `stores.base.Topics`."""

    is_behind = True  # its answers may take any time

    def __init__(self, near: Store, travel: Travel) -> None:
        self._near = near.topics
        self._travel = travel

    async def publish(
        self,
        items: Sequence[Item],
        key: str | None = None,
        options: PublishOptions = NO_OPTIONS,
        published_at: float = 0.0,
    ) -> Receipt:
        await self._travel()
        return await self._near.publish(items, key, options, published_at)

    def publish_at_once(self, topic: str, events: Sequence[bytes]) -> EventId | None:
        return None

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        await self._travel()
        return await self._near.close(topic, reason, if_last=if_last)

    async def lease(self, topic: str, seconds: float | None) -> None:
        await self._travel()
        await self._near.lease(topic, seconds)

    async def delete(self, topic: str) -> None:
        await self._travel()
        await self._near.delete(topic)

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        await self._travel()
        return await self._near.describe(topics)

    async def names(self, after: str, limit: int) -> Sequence[str]:
        await self._travel()
        return await self._near.names(after, limit)
