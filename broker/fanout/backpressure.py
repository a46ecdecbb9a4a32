"""Where publishers wait while too much is on its way: for their own topic, or in all.

Rules: knows numbers and names. Who came first goes first, one at a time for each topic, so that nobody starves and what
is on its way exceeds its bound by one publish at most. A busy topic holds nobody up but its own publishers, unless all
together reach the bound of all.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection

TOPIC_BYTES = 1 << 20
ALL_BYTES = 32 << 20


class Backpressure:
    """See the module.

    Args:
        backlog: bytes on their way in all.
        backlog_of: bytes on their way for a topic.
    """

    def __init__(self, backlog: Callable[[], int], backlog_of: Callable[[str], int]) -> None:
        self._backlog = backlog
        self._backlog_of = backlog_of
        self._queue: deque[tuple[Collection[str], asyncio.Future[None]]] = deque()
        self._queued: Counter[str] = Counter()

    def is_open(self, topics: Collection[str]) -> bool:
        """Whether a publish to `topics` need not wait: there is room, and nobody waits for one of them."""
        if not self._backlog():
            return True
        return self._has_room(topics) and not any(self._queued[topic] for topic in topics)

    def _has_room(self, topics: Collection[str]) -> bool:
        return self._backlog() <= ALL_BYTES and all(
            self._backlog_of(topic) <= TOPIC_BYTES for topic in topics
        )

    async def wait(self, topics: Collection[str]) -> None:
        """Return when it is the turn of a publish to `topics`; `turn` must be called after it."""
        admitted = asyncio.get_running_loop().create_future()
        self._queue.append((topics, admitted))
        self._queued.update(topics)
        try:
            await admitted
        finally:
            self._queued.subtract(topics)
            self._queued += Counter()  # forget those that nobody waits for

    def turn(self) -> None:
        """Admit those for whom there is room now; to be called when there is less on its way, and after each publish."""
        passed: set[str] = set()
        waiting: deque[tuple[Collection[str], asyncio.Future[None]]] = deque()
        for topics, admitted in self._queue:
            if admitted.done():
                continue
            if passed.isdisjoint(topics) and self._has_room(topics):
                admitted.set_result(None)
            else:
                waiting.append((topics, admitted))
            passed.update(topics)
        self._queue = waiting
