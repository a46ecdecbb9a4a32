"""Reports to the store's owner which logs have grown, and pauses reading while too many bytes are on their way to subscribers.

Rules: knows no subscriber and no connection.
"""

from __future__ import annotations

import asyncio

from broker.stores.base import NO_OWNER, StoreOwner


class Delivery:
    """Reports logs that have grown.

    Attributes:
        owner: the store's; one that ignores everything before `start` and after `stop`.
        flowing: cleared while reading from the server must pause.
    """

    def __init__(self) -> None:
        self.owner: StoreOwner = NO_OWNER
        self.flowing = asyncio.Event()
        self.flowing.set()

    def start(self, owner: StoreOwner) -> None:
        self.owner = owner

    def stop(self) -> None:
        self.owner = NO_OWNER

    def deliver(self, topic: str, size: int, published_at: float = 0.0) -> None:
        """The log of `topic` has grown; see `StoreOwner.delivered`."""
        if not self.owner.delivered(topic, size, published_at):
            self.flowing.clear()

    def resume(self) -> None:
        self.flowing.set()
