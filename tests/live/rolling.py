"""Viewers that stay while brokers are restarted one after the other.

A viewer does what EventSource does and takes a follower's notes: `judge` of `churn` tells whether it was served well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.live.churn import Follower, Note, number
from tests.support.event_stream import ACCEPT, AsyncStream

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 2.0
"""The longest wait. The broker asks a refused viewer to wait up to half a minute."""
OPENING = b"\n:\n"
"""What a stream begins with after its `retry:`, and a refusal doesn't."""


class Viewer(Follower):
    """One browser tab with an EventSource on `topic`.

    Attributes:
        refused: how often the broker asked it to come back later.
    """

    def __init__(self, port: int, topic: str) -> None:
        super().__init__(port, [topic], random.Random(0))
        self.refused = 0
        self._delay_seconds = FIRST_DELAY_SECONDS

    async def stay(self, enough: Callable[[Follower], bool]) -> None:
        """Follow until it is enough, over as many connections as it takes."""
        while True:
            await self._view(enough)
            if enough(self):
                return
            await asyncio.sleep(min(self._delay_seconds, LONGEST_DELAY_SECONDS))

    async def _view(self, enough: Callable[[Follower], bool]) -> None:
        """One connection. Fails where a browser would give up: at anything but a stream."""
        cursor = {"Last-Event-ID": self.cursor} if self.cursor else {}
        stream = await AsyncStream.open(self._port, f"/topics/{self.topics[0]}", ACCEPT | cursor)
        try:
            assert stream.status == 200, f"lost for good: {stream.status}"
            assert stream.headers["content-type"] == "text/event-stream"
            self.notes.append(Note("connect", "", number(self.cursor) if self.cursor else -1))
            await self._watch(stream, enough)
        finally:
            await stream.close()

    async def _watch(self, stream: AsyncStream, enough: Callable[[Follower], bool]) -> None:
        noted = 0
        is_open = True
        while is_open and not enough(self):  # a heartbeat makes it look again
            for event in stream.events[noted:]:
                self._note(event)
            noted = len(stream.events)
            if stream.retry_ms is not None:
                self._delay_seconds = stream.retry_ms / 1000
            try:
                is_open = not stream.is_complete and await stream.more()
            except ConnectionError:  # cut; an incomplete event comes again
                is_open = False
        for event in stream.events[noted:]:
            self._note(event)
        self.refused += OPENING not in stream.body and not enough(self)
