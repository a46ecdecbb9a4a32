"""What this instance's copies are made of: one topic's copy, and an id that only rises.

Rules: state only; what changes it is the business of `copies`.
"""

from __future__ import annotations

import asyncio

from broker.events import EventId
from broker.log.log import Log
from broker.stores.redis.messages import Arrival


class TopicReplica:
    """One topic's.

    Attributes:
        tail: the topic's last id, as far as the copy goes.
        contiguous_to: up to here nothing is missing that isn't in the log, for the store was read, or the channel heard.
        losses_applied_to: losses up to this id are in the log, or were never its business.
        watchers: how many watch it.
        is_live: see the module.
        was_live: whether somebody may read it already.
        buffer: what was heard while it waits; None where that was too much, so that the store must be read again.
        task: what makes it live.
        extending: what puts older entries in front.
    """

    __slots__ = (
        "buffer",
        "buffer_bytes",
        "contiguous_to",
        "extending",
        "is_live",
        "log",
        "losses_applied_to",
        "tail",
        "task",
        "topic",
        "was_live",
        "watchers",
    )

    def __init__(self, topic: str, log: Log) -> None:
        self.topic = topic
        self.log = log
        self.tail: EventId = 0
        self.contiguous_to: EventId = 0
        self.losses_applied_to: EventId = 0
        self.watchers = 0
        self.is_live = False
        self.was_live = False
        self.buffer: list[Arrival] | None = []
        self.buffer_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.extending: asyncio.Task[None] | None = None


class Watermark:
    """An id that only rises, and those who wait for it."""

    def __init__(self) -> None:
        self.value: EventId = 0
        self._waiting: dict[asyncio.Future[None], EventId] = {}

    def rise(self, value: EventId) -> None:
        if value <= self.value:
            return
        self.value = value
        for future, wanted in self._waiting.items():
            if wanted <= value and not future.done():
                future.set_result(None)

    def reached(self, wanted: EventId) -> asyncio.Future[None]:
        """Done once the level is `wanted` or higher."""
        future = asyncio.get_running_loop().create_future()
        if wanted <= self.value:
            future.set_result(None)
        else:
            self._waiting[future] = wanted
            future.add_done_callback(self._waiting.pop)  # also of who gave up
        return future
