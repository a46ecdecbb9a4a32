"""Publishers wait here while too many bytes are on their way to subscribers: of their own topic, or in total.

Rules: knows numbers and names. Publishers of a topic go in the order they came, one at a time. So none starves, and the
backlog exceeds its bound by at most one publish of each topic. A busy topic delays only its own publishers, unless the bound for all
topics is reached.

Each topic has a line of publishers. Only the first of a line is looked at, and only when something has changed for its topic,
so that the work for a publisher doesn't depend on how many wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
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


class Publisher:
    """One that waits.

    Attributes:
        topics: each once.
        admitted: admits it; cancelled if it gives up.
        is_ready: whether it is in `Backpressure._ready`.
    """

    __slots__ = ("admitted", "is_ready", "topics")

    def __init__(self, topics: Collection[str], admitted: asyncio.Future[None]) -> None:
        self.topics = tuple(dict.fromkeys(topics))
        self.admitted = admitted
        self.is_ready = False


class Backpressure:
    """Admits publishers according to `backlog`.

    Attributes:
        queued: how many publishers of a topic wait, or were admitted and have not run yet; only topics with any.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.queued: dict[str, int] = {}
        self._lines: dict[str, deque[Publisher]] = {}  # those that wait, by topic
        self._ready: deque[Publisher] = deque()  # first in their lines, and of topics with room

    @property
    def is_slack(self) -> bool:
        """Whether no publish need wait, whatever its topics: even if all bytes on their way were of one topic."""
        return self._backlog.backlog <= MAX_TOPIC_BYTES and not self.queued

    def is_open(self, topics: Collection[str]) -> bool:
        """Whether a publish to `topics` need not wait: there is room, and no publish waits for one of them."""
        return self.is_slack or (
            self._backlog.backlog <= MAX_BYTES
            and self._have_room(topics)
            and not any(topic in self.queued for topic in topics)
        )

    def _have_room(self, topics: Collection[str]) -> bool:
        return all(self._backlog.backlog_of(topic) <= MAX_TOPIC_BYTES for topic in topics)

    async def wait(self, topics: Collection[str]) -> None:
        """Return when it is the turn of a publish to `topics`. After the publish, `admit` must be called for them."""
        publisher = Publisher(topics, asyncio.get_running_loop().create_future())
        for topic in publisher.topics:
            self.queued[topic] = self.queued.get(topic, 0) + 1
            self._lines.setdefault(topic, deque()).append(publisher)
        if self._may_go(publisher):
            self._queue(publisher)
        try:
            await publisher.admitted
        finally:
            for topic in publisher.topics:
                self.queued[topic] -= 1
                if not self.queued[topic]:
                    del self.queued[topic]

    def admit(self, topics: Collection[str]) -> None:
        """Admit publishers for which there is room now, at most one of each topic.

        To be called after each publish to `topics`, and when their part of the backlog shrinks.
        """
        for topic in topics:
            self._look_at(topic)
        while self._ready and self._backlog.backlog <= MAX_BYTES:
            publisher = self._ready.popleft()
            publisher.is_ready = False
            # If one of its topics is full again, it is looked at when that has room.
            if not publisher.admitted.done() and self._have_room(publisher.topics):
                publisher.admitted.set_result(None)
                for topic in publisher.topics:
                    self._lines[topic].popleft()
                    self._first(topic)

    def _look_at(self, topic: str) -> None:
        """Find out whether the first in the topic's line is ready."""
        first = self._first(topic)
        if first is not None and not first.is_ready and self._may_go(first):
            self._queue(first)

    def _may_go(self, publisher: Publisher) -> bool:
        """Whether only the bound for all topics may hold it back."""
        topics = publisher.topics
        return all(self._first(topic) is publisher for topic in topics) and self._have_room(topics)

    def _queue(self, publisher: Publisher) -> None:
        publisher.is_ready = True
        self._ready.append(publisher)

    def _first(self, topic: str) -> Publisher | None:
        """The first in the topic's line. Those before it that gave up go, and so does a line of none."""
        line = self._lines.get(topic)
        if line is None:
            return None
        while line and line[0].admitted.done():
            line.popleft()
        if line:
            return line[0]
        del self._lines[topic]
        return None
