"""Publishers wait here while too many bytes are on their way to subscribers: of their own topic, or in total.

Rules: knows numbers and names. Publishers of a topic go in the order they came, one at a time. So none starves, and the
backlog exceeds its bound by at most one publish. A busy topic delays only its own publishers, unless the bound for all
topics is reached.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection
from typing import Protocol

MAX_TOPIC_BYTES = 1 << 20
MAX_BYTES = 32 << 20


class Backlog(Protocol):
    """Bytes on their way to subscribers."""

    @property
    def backlog(self) -> int:
        """Bytes for all topics together."""

    def backlog_of(self, topic: str) -> int: ...


class Backpressure:
    """Admits publishers according to `backlog`.

    Attributes:
        queue: the publishers that wait, as their topics and a future that admits them.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.queue: deque[tuple[Collection[str], asyncio.Future[None]]] = deque()
        self.queued: Counter[str] = Counter()

    @property
    def is_slack(self) -> bool:
        """Whether no publish need wait, whatever its topics: even if all bytes on their way were of one topic."""
        return self._backlog.backlog <= MAX_TOPIC_BYTES and not self.queued

    def is_open(self, topics: Collection[str]) -> bool:
        """Whether a publish to `topics` need not wait: there is room, and no publish waits for one of them."""
        return self.is_slack or (self._has_room(topics) and not any(self.queued[topic] for topic in topics))

    def _has_room(self, topics: Collection[str]) -> bool:
        return self._backlog.backlog <= MAX_BYTES and all(
            self._backlog.backlog_of(topic) <= MAX_TOPIC_BYTES for topic in topics
        )

    async def wait(self, topics: Collection[str]) -> None:
        """Return when it is the turn of a publish to `topics`. After the publish, `admit` must be called."""
        admitted = asyncio.get_running_loop().create_future()
        self.queue.append((topics, admitted))
        self.queued.update(topics)
        try:
            await admitted
        finally:
            self.queued.subtract(topics)
            self.queued += Counter()  # drop the zeros

    def admit(self) -> None:
        """Admit publishers for which there is room now. To be called after each publish, and when the backlog shrinks."""
        passed: set[str] = set()
        waiting: deque[tuple[Collection[str], asyncio.Future[None]]] = deque()
        for topics, admitted in self.queue:
            if admitted.done():
                continue
            if passed.isdisjoint(topics) and self._has_room(topics):
                admitted.set_result(None)
            else:
                waiting.append((topics, admitted))
            passed.update(topics)
        self.queue = waiting
